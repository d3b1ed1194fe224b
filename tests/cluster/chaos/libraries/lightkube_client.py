"""lightkube. Its watch goes on by itself after a clean end, and raises at any other."""

from __future__ import annotations

from collections.abc import Iterator

from lightkube import Client, KubeConfig  # type: ignore[import-not-found]
from lightkube.models.meta_v1 import ObjectMeta  # type: ignore[import-not-found]
from lightkube.resources.core_v1 import ConfigMap  # type: ignore[import-not-found]

from tests.cluster.chaos.journal import Change
from tests.cluster.chaos.libraries.work import KEY


class Lightkube:
    def __init__(self, path: str, watched: str, quiet: str) -> None:
        self.client = Client(config=KubeConfig.from_file(path))
        self.watched, self.quiet = watched, quiet

    def list(self) -> int:
        return sum(1 for _ in self.client.list(ConfigMap, namespace=self.quiet))

    def create(self, key: str) -> int:
        metadata = ObjectMeta(generateName="w-", namespace=self.watched, labels={KEY: key})
        return int(self.client.create(ConfigMap(metadata=metadata)).metadata.resourceVersion)

    def version(self) -> str:
        listed = self.client.list(ConfigMap, namespace=self.watched)
        list(listed)
        return str(listed.resourceVersion)

    def watch(self, version: str) -> Iterator[Change]:
        for kind, one in self.client.watch(ConfigMap, namespace=self.watched, resource_version=version):
            yield Change(kind, one.metadata.name, one.metadata.resourceVersion)


def connect(path: str, watched: str, quiet: str) -> Lightkube:
    return Lightkube(path, watched, quiet)
