"""What a client asks before anything else: versions, groups, resources, and enough OpenAPI to let `kubectl` go on."""

from __future__ import annotations

from lbproxy.demo.resources import ALL, RESOURCES, VERBS, Resource, group_versions
from lbproxy.demo.store import Json

VERSION: Json = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+lbproxy-demo",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2025-01-01T00:00:00Z",
    "goVersion": "python",
    "compiler": "cpython",
    "platform": "linux/amd64",
}

OPENAPI_V2_PROTOBUF = b"\x0a\x032.0\x12\x11\x0a\x07lbproxy\x12\x06v1.32."
"""A swagger document without definitions, in gnostic's protobuf (1: swagger, 2: info{1: title, 2: version}).

kubectl up to 1.23 validates what it creates against this; a kind it does not find there is let through.
"""


def document(segments: tuple[str, ...]) -> Json | None:
    """The answer to a discovery request, None where the path is none."""
    match segments:
        case ("version",):
            return VERSION
        case ("api",):
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ("apis",):
            groups = sorted({resource.group for resource in RESOURCES if resource.group})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in groups]}
        case ("api", version):
            return _resource_list(version)
        case ("apis", group):
            return _group(group) if any(resource.group == group for resource in RESOURCES) else None
        case ("apis", group, version):
            return _resource_list(f"{group}/{version}")
        case ("openapi", "v2"):
            return {"swagger": "2.0", "info": {"title": "lbproxy", "version": "v1.32.0"}, "paths": {}}
        case ("openapi", "v3"):
            return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in map(_path, _versions())}}
        case ("openapi", "v3", *rest):
            return _openapi_v3("/".join(rest))
        case _:
            return None


def _versions() -> list[str]:
    return list(group_versions())


def _path(api_version: str) -> str:
    return f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"


def _group(group: str) -> Json:
    versions = [
        {"groupVersion": version, "version": version.split("/")[1]}
        for version in _versions()
        if version.startswith(f"{group}/")
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def _resource_list(api_version: str) -> Json | None:
    resources = group_versions().get(api_version)
    if resources is None:
        return None
    entries = [entry for resource in resources for entry in (_entry(resource), *_subresources(resource))]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": entries}


def _entry(resource: Resource) -> Json:
    return {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(VERBS),
        "shortNames": list(resource.short),
        "categories": ["all"] if resource.plural in ALL else [],
    }


def _subresources(resource: Resource) -> list[Json]:
    return [
        {
            "name": f"{resource.plural}/{subresource}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["create", "get"] if subresource in ("attach", "exec", "portforward") else ["get", "patch"],
        }
        for subresource in resource.subresources
    ]


def _openapi_v3(path: str) -> Json | None:
    """kubectl looks here for one thing: does PATCH of this kind take `fieldValidation`? Then it leaves that to us."""
    resources = {_path(version): resources for version, resources in group_versions().items()}.get(path)
    if resources is None:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "lbproxy", "version": "v1.32.0"},
        "paths": {_template(path, resource): _patch_operation(resource) for resource in resources},
        "components": {"schemas": {}},
    }


def _template(path: str, resource: Resource) -> str:
    scope = "namespaces/{namespace}/" if resource.namespaced else ""
    return f"/{path}/{scope}{resource.plural}/{{name}}"


def _patch_operation(resource: Resource) -> Json:
    return {
        "patch": {
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": {
                "group": resource.group,
                "version": resource.version,
                "kind": resource.kind,
            },
        }
    }
