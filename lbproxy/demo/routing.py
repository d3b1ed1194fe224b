"""API paths: which resource, namespace, name and subresource a path means."""

from __future__ import annotations

from dataclasses import dataclass

from lbproxy.demo.resources import BY_PATH, Resource
from lbproxy.demo.store import Key


@dataclass(frozen=True, slots=True)
class Target:
    resource: Resource
    namespace: str
    name: str
    """"" for the collection."""
    subresource: str
    watch: bool
    """The old form, `/api/v1/watch/...`."""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


def parse_target(segments: tuple[str, ...]) -> Target | None:
    """None where no such resource is served."""
    if segments[:1] == ("api",):
        group, rest = "", segments[1:]
    elif segments[:1] == ("apis",) and len(segments) > 1:
        group, rest = segments[1], segments[2:]
    else:
        return None
    if not rest:
        return None
    version, rest = rest[0], rest[1:]
    watch = rest[:1] == ("watch",)
    if watch:
        rest = rest[1:]
    namespace = ""
    # /namespaces/X and its subresources are the namespace itself; /namespaces/X/pods is what lies in it.
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0])) if rest else None
    if resource is None or (namespace and not resource.namespaced):
        return None
    name = rest[1] if len(rest) > 1 else ""
    return Target(resource, namespace, name, "/".join(rest[2:]), watch)
