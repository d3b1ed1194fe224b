"""The official one. Its watch goes on by itself after a clean end, and raises at any other."""

from __future__ import annotations

from collections.abc import Iterator

from kubernetes import client, config, watch  # type: ignore[import-not-found]

from tests.cluster.chaos.journal import Change
from tests.cluster.chaos.libraries.work import KEY


class Official:
    def __init__(self, path: str, watched: str, quiet: str) -> None:
        config.load_kube_config(path)
        self.core, self.watched, self.quiet = client.CoreV1Api(), watched, quiet

    def list(self) -> int:
        return len(self.core.list_namespaced_config_map(self.quiet).items)

    def create(self, key: str) -> int:
        metadata = client.V1ObjectMeta(generate_name="w-", labels={KEY: key})
        made = self.core.create_namespaced_config_map(self.watched, client.V1ConfigMap(metadata=metadata))
        return int(made.metadata.resource_version)

    def version(self) -> str:
        return str(self.core.list_namespaced_config_map(self.watched).metadata.resource_version)

    def watch(self, version: str) -> Iterator[Change]:
        stream = watch.Watch().stream(self.core.list_namespaced_config_map, self.watched, resource_version=version)
        for event in stream:
            metadata = event["object"].metadata
            yield Change(event["type"], metadata.name, metadata.resource_version)


def connect(path: str, watched: str, quiet: str) -> Official:
    return Official(path, watched, quiet)
