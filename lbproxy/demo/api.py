"""The REST verbs on resources: GET, LIST, POST, PUT, PATCH, DELETE."""

from __future__ import annotations

import json
import secrets
import string
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import trio
import yaml

from lbproxy.demo import patch, protobuf
from lbproxy.demo.exchange import Exchange, Request
from lbproxy.demo.query import ListOptions, continue_token
from lbproxy.demo.resources import Resource, at, table
from lbproxy.demo.routing import Target
from lbproxy.demo.status import ApiError, expired, refused, success
from lbproxy.demo.store import (
    Event,
    ExpiredError,
    Json,
    Key,
    Refused,
    Store,
    Stored,
    Verb,
    Write,
    WriteRefusedError,
    encode,
)

Commit = Callable[[Write], Awaitable[Event]]
"""Hands a write to whoever owns the log; raises `WriteRefusedError`, or `OSError` where the owner cannot be reached."""

FRESH_WAIT = 3.0
"""Seconds a LIST waits for a revision this server has not seen yet (cacher.go, blockTimeout)."""
PATCH_TRIES = 5
"""How often a PATCH is computed anew after a conflict (k8s.io/apiserver, maxRetryWhenPatchConflicts)."""


def commit_to(store: Store) -> Commit:
    """Writes go to this store, which is in the same process."""

    async def commit(write: Write) -> Event:
        await trio.lowlevel.checkpoint()
        return store.write(write)

    return commit


class Api:
    def __init__(self, store: Store, commit: Commit) -> None:
        self._store = store
        self._commit = commit

    # Reading

    async def get(self, exchange: Exchange, target: Target) -> None:
        stored = self._existing(target)
        if "as=Table" in exchange.request.header("accept"):
            await exchange.json(200, table(target.resource, stored.revision, [stored.body]))
        else:
            await exchange.respond(200, stored.encoded + b"\n", "application/json")

    async def list(self, exchange: Exchange, resource: Resource, options: ListOptions) -> None:
        if options.revision is not None and options.revision > self._store.revision:
            await self._wait_revision(options.revision)
        revision = self._store.revision
        if options.exact and options.revision:
            revision = options.revision
        try:
            found = self._store.snapshot(resource.id, revision)
        except ExpiredError as error:
            await exchange.json(410, expired(error))
            return
        matching = {key: stored for key, stored in found.items() if options.selector.matches(key, stored.body)}
        page, more = _page(matching, options, revision)
        if options.table:
            await exchange.json(200, table(resource, revision, [stored.body for stored in page], **more))
            return
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        head["metadata"] = {"resourceVersion": str(revision), **more}  # type: ignore[assignment]
        body = encode(head)[:-1] + b',"items":[' + b",".join(stored.encoded for stored in page) + b"]}\n"
        await exchange.respond(200, body, "application/json")

    def _existing(self, target: Target) -> Stored:
        stored = self._store.get(target.resource.id, target.key)
        if stored is None:
            raise refused(Refused.MISSING, target.resource, target.name)
        return stored

    async def _wait_revision(self, revision: int) -> None:
        reached = trio.Event()
        unsubscribe = self._store.subscribe(lambda event: reached.set() if event.revision >= revision else None)
        try:
            with trio.move_on_after(FRESH_WAIT) as scope:
                await reached.wait()
        finally:
            unsubscribe()
        if scope.cancelled_caught:
            message = f"Too large resource version: {revision}, current: {self._store.revision}"
            raise ApiError("Timeout", message, causes=[{"reason": "ResourceVersionTooLarge"}], retry_after=1)

    # Writing

    async def create(self, exchange: Exchange, target: Target) -> None:
        body = _parse(await exchange.body(), exchange.request)
        body = complete(body, target.resource, namespace=target.namespace, name=target.name)
        key = (target.namespace, body["metadata"]["name"])
        created = await self._write(
            exchange.request, target.resource, Write(Verb.CREATE, target.resource.id, key, body)
        )
        await _show(exchange, 201, target.resource, created)

    async def replace(self, exchange: Exchange, target: Target) -> None:
        body = _parse(await exchange.body(), exchange.request)
        current = self._existing(target)
        expected = _revision(body, "metadata.resourceVersion")
        body = _keep_identity(body, current.body, target.resource)
        write = Write(Verb.UPDATE, target.resource.id, target.key, body, expected)
        await _show(exchange, 200, target.resource, await self._write(exchange.request, target.resource, write))

    async def patch(self, exchange: Exchange, target: Target) -> None:
        raw, kind = await exchange.body(), exchange.request.header("content-type").partition(";")[0]
        document = _parse_yaml(raw) if kind == "application/apply-patch+yaml" else _parse(raw, exchange.request)
        for attempt in range(PATCH_TRIES):
            write = self._patched(target, kind, document)
            try:
                stored = await self._write(exchange.request, target.resource, write)
                break
            except ApiError as error:
                retry = error.status["reason"] == "Conflict" and not at(document, "metadata.resourceVersion")
                if not retry or attempt == PATCH_TRIES - 1:
                    raise
        await _show(exchange, 201 if write.verb is Verb.CREATE else 200, target.resource, stored)

    def _patched(self, target: Target, kind: str, document: Any) -> Write:
        current = self._store.get(target.resource.id, target.key)
        if current is None and kind == "application/apply-patch+yaml":
            body = complete(document, target.resource, namespace=target.namespace, name=target.name)
            return Write(Verb.CREATE, target.resource.id, target.key, body)
        if current is None:
            raise refused(Refused.MISSING, target.resource, target.name)
        if kind == "application/json-patch+json":
            body = patch.json_patch(current.body, document)
        else:
            body = patch.merge(current.body, document)
        expected = _revision(document, "metadata.resourceVersion")
        body = _keep_identity(body, current.body, target.resource)
        return Write(Verb.UPDATE, target.resource.id, target.key, body, int(expected) if expected else current.revision)

    async def delete(self, exchange: Exchange, target: Target) -> None:
        options = _parse(await exchange.body(), exchange.request, empty={})
        current = self._existing(target)
        expected = _revision(options, "preconditions.resourceVersion")
        write = Write(
            Verb.DELETE,
            target.resource.id,
            target.key,
            expected_revision=expected,
            expected_uid=at(options, "preconditions.uid"),
        )
        await self._write(exchange.request, target.resource, write)
        if target.resource.id == "namespaces":
            await self._delete_all_in(target.name)
        details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural}
        await exchange.json(200, success(**details, uid=at(current.body, "metadata.uid")))

    async def delete_collection(self, exchange: Exchange, resource: Resource, options: ListOptions) -> None:
        for key, stored in self._store.snapshot(resource.id).items():
            if options.selector.matches(key, stored.body):
                await self._write(exchange.request, resource, Write(Verb.DELETE, resource.id, key))
        await exchange.json(200, success(group=resource.group, kind=resource.plural))

    async def _delete_all_in(self, namespace: str) -> None:
        for resource in self._store.resources():
            for key in self._store.snapshot(resource):
                if key[0] == namespace:
                    try:
                        await self._commit(Write(Verb.DELETE, resource, key))
                    except WriteRefusedError:
                        continue  # somebody else deleted it first

    async def _write(self, request: Request, resource: Resource, write: Write) -> Stored:
        if request.first("dryRun"):
            current = self._store.get(resource.id, write.key)
            return Stored(self._store.revision, write.body or (current.body if current else {}))
        try:
            return (await self._commit(write)).stored
        except WriteRefusedError as error:
            raise refused(error.why, resource, write.key[1]) from None
        except OSError as error:
            raise ApiError("InternalError", f"etcdserver: request timed out ({error})") from None


def _page(found: dict[Key, Stored], options: ListOptions, revision: int) -> tuple[list[Stored], Json]:
    """One page of a list, and the metadata that says how to go on."""
    keys = [key for key in found if options.after is None or key > options.after]
    page = keys[: options.limit] if options.limit else keys
    stored = [found[key] for key in page]
    if len(page) == len(keys):
        return stored, {}
    return stored, {"continue": continue_token(revision, page[-1]), "remainingItemCount": len(keys) - len(page)}


async def _show(exchange: Exchange, code: int, resource: Resource, stored: Stored) -> None:
    if "as=Table" in exchange.request.header("accept"):
        await exchange.json(code, table(resource, stored.revision, [stored.body]))
    else:
        await exchange.respond(code, stored.encoded + b"\n", "application/json")


def _parse(raw: bytes, request: Request, empty: Any = None) -> Any:
    if not raw and empty is not None:
        return empty
    if "protobuf" in request.header("content-type"):
        return protobuf.decode(raw)
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ApiError("BadRequest", f"the object provided is unrecognized: {error}") from None


def _parse_yaml(raw: bytes) -> Any:
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ApiError("BadRequest", f"error decoding YAML: {error}") from None


def _revision(document: Any, path: str) -> int | None:
    """The revision that a client expects, None where it does not say."""
    text = at(document, path)
    if not text:
        return None
    if not (isinstance(text, str) and text.isascii() and text.isdigit()):
        raise ApiError("BadRequest", f"{path}: {text!r} is no resource version")
    return int(text)


def _metadata(body: Any, resource: Resource) -> Json:
    """A copy of an object's metadata. Raises `ApiError` (400) for what is no object of this kind."""
    if not isinstance(body, dict) or body.get("kind", resource.kind) != resource.kind:
        raise ApiError("BadRequest", f"the object provided is no {resource.kind}")
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ApiError("BadRequest", "metadata must be an object")
    return dict(metadata)


def complete(body: Any, resource: Resource, *, namespace: str, name: str) -> Json:
    """A new object as it is stored: named, dated, and with an identity of its own. Raises `ApiError`."""
    metadata = _metadata(body, resource)
    if name and metadata.setdefault("name", name) != name:
        raise ApiError("BadRequest", "the name of the object does not match the name on the URL")
    if "name" not in metadata and "generateName" in metadata:
        alphabet = string.ascii_lowercase + string.digits
        metadata["name"] = metadata["generateName"] + "".join(secrets.choice(alphabet) for _ in range(5))
    if not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ApiError("Invalid", f'{resource.kind} "" is invalid: metadata.name: Required value: name is required')
    if resource.namespaced and not namespace:
        raise ApiError("BadRequest", "an empty namespace may not be set during creation")
    if metadata.get("namespace", namespace) != namespace:
        raise ApiError("BadRequest", "the namespace of the provided object does not match the namespace on the URL")
    if resource.namespaced:
        metadata["namespace"] = namespace
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    result: Json = {"kind": resource.kind, "apiVersion": resource.api_version, **body, "metadata": metadata}
    if resource.id == "namespaces":
        result.setdefault("status", {"phase": "Active"})
    return result


def _keep_identity(body: Any, current: Json, resource: Resource) -> Json:
    """What a client cannot change by an update: name, namespace, uid and birthday."""
    kept = {
        field: current["metadata"][field]
        for field in ("name", "namespace", "uid", "creationTimestamp")
        if field in current["metadata"]
    }
    metadata = {**_metadata(body, resource), **kept}
    return {**body, "kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
