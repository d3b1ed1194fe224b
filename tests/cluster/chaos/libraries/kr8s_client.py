"""kr8s, by its blocking face. A watch that ends cleanly ends the loop of its user."""

from __future__ import annotations

from collections.abc import Iterator

import kr8s  # type: ignore[import-not-found]
from kr8s.objects import ConfigMap  # type: ignore[import-not-found]

from tests.cluster.chaos.journal import Change
from tests.cluster.chaos.libraries.work import KEY


class Kr8s:
    def __init__(self, path: str, watched: str, quiet: str) -> None:
        self.api = kr8s.api(kubeconfig=path)
        self.watched, self.quiet = watched, quiet

    def list(self) -> int:
        return sum(1 for _ in self.api.get("configmaps", namespace=self.quiet))

    def create(self, key: str) -> int:
        metadata = {"generateName": "w-", "namespace": self.watched, "labels": {KEY: key}}
        made = ConfigMap({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, api=self.api)
        made.create()
        return int(made.raw["metadata"]["resourceVersion"])

    def version(self) -> str:
        """None: kr8s shows no version of a LIST, and its users watch from wherever the apiserver begins."""
        return ""

    def watch(self, version: str) -> Iterator[Change]:
        for kind, one in self.api.watch("configmaps", namespace=self.watched, since=version or None):
            yield Change(kind, one.metadata.name, one.metadata.resourceVersion)


def connect(path: str, watched: str, quiet: str) -> Kr8s:
    return Kr8s(path, watched, quiet)
