"""The REST verbs, discovery and the endpoints for tests, over a real socket."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import trio

from lbproxy.demo import life
from lbproxy.demo.exchange import Request
from lbproxy.demo.probes import pattern
from lbproxy.demo.server import SimulatedApiserver
from lbproxy.demo.status import ApiError
from lbproxy.demo.store import Store
from tests.demo.client import Client, ask, connected

MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def config_map(name: str, **data: str) -> Any:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data}


async def test_create_read_update_delete(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        created = await client.ask("POST", MAPS, config_map("x", a="1"))
        assert created.code == 201
        assert created.json["metadata"]["namespace"] == "default"
        assert created.json["metadata"]["resourceVersion"] == "2"
        assert (await client.ask("GET", f"{MAPS}/x")).json == created.json
        replaced = await client.ask("PUT", f"{MAPS}/x", {**created.json, "data": {"a": "2"}})
        assert (replaced.code, replaced.json["data"]) == (200, {"a": "2"})
        assert replaced.json["metadata"]["uid"] == created.json["metadata"]["uid"]
        deleted = await client.ask("DELETE", f"{MAPS}/x")
        assert (deleted.code, deleted.json["status"]) == (200, "Success")
        missing = await client.ask("GET", f"{MAPS}/x")
        assert (missing.code, missing.json["reason"]) == (404, "NotFound")
        assert missing.json["message"] == 'configmaps "x" not found'


async def test_a_stale_put_is_a_conflict(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        first = (await client.ask("POST", MAPS, config_map("x"))).json
        assert (await client.ask("PUT", f"{MAPS}/x", {**first, "data": {"by": "one"}})).code == 200
        second = await client.ask("PUT", f"{MAPS}/x", {**first, "data": {"by": "two"}})
        assert (second.code, second.json["reason"]) == (409, "Conflict")
        assert (await client.ask("GET", f"{MAPS}/x")).json["data"] == {"by": "one"}


@pytest.mark.parametrize(
    ("kind", "document", "data"),
    [
        ("application/merge-patch+json", {"data": {"b": "2", "a": None}}, {"b": "2"}),
        ("application/strategic-merge-patch+json", {"data": {"b": "2"}, "$x": 1}, {"a": "1", "b": "2"}),
        ("application/json-patch+json", [{"op": "replace", "path": "/data/a", "value": "9"}], {"a": "9"}),
        ("application/json-patch+json", [{"op": "remove", "path": "/data/a"}], {}),
        ("application/apply-patch+yaml", b"data:\n  c: '3'\n", {"a": "1", "c": "3"}),
    ],
)
async def test_patches(server: SimulatedApiserver, kind: str, document: Any, data: dict[str, str]) -> None:
    await ask(server.address, "POST", MAPS, config_map("x", a="1"))
    patched = await ask(server.address, "PATCH", f"{MAPS}/x", document, {"Content-Type": kind})
    assert (patched.code, patched.json["data"]) == (200, data)
    assert patched.json["kind"] == "ConfigMap"


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/data/none", "value": "9"},
        {"op": "test", "path": "/data/a", "value": "9"},
        {"op": "fly", "path": "/data/a"},
        {"path": "/data/a"},
    ],
)
async def test_a_json_patch_that_cannot_be_done(server: SimulatedApiserver, operation: Any) -> None:
    await ask(server.address, "POST", MAPS, config_map("x", a="1"))
    kind = {"Content-Type": "application/json-patch+json"}
    assert (await ask(server.address, "PATCH", f"{MAPS}/x", [operation], kind)).code == 422


async def test_a_patch_with_a_stale_revision_is_a_conflict(server: SimulatedApiserver) -> None:
    created = (await ask(server.address, "POST", MAPS, config_map("x"))).json
    kind = {"Content-Type": "application/merge-patch+json"}
    fresh = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"a": "1"}}
    assert (await ask(server.address, "PATCH", f"{MAPS}/x", fresh, kind)).code == 200
    assert (await ask(server.address, "PATCH", f"{MAPS}/x", fresh, kind)).code == 409


@pytest.mark.parametrize(
    ("method", "target", "body", "code"),
    [
        ("POST", MAPS, config_map("x"), 409),
        ("POST", MAPS, b"{", 400),
        ("POST", MAPS, {"kind": "Pod", "metadata": {"name": "p"}}, 400),
        ("POST", MAPS, {"metadata": {}}, 422),
        ("POST", "/api/v1/configmaps", config_map("y"), 400),
        ("POST", MAPS, {"metadata": {"name": "y", "namespace": "other"}}, 400),
        ("PUT", f"{MAPS}/none", config_map("none"), 404),
        ("DELETE", f"{MAPS}/none", None, 404),
        ("PATCH", f"{MAPS}/none", {}, 404),
        ("BREW", f"{MAPS}/x", None, 405),
        ("PUT", MAPS, {}, 405),
        ("GET", "/apis/none/v1", None, 404),
        ("GET", f"{MAPS}?resourceVersion=abc", None, 400),
        ("GET", f"{MAPS}?continue=abc", None, 400),
        ("GET", f"{MAPS}?labelSelector=a%20b%20c", None, 400),
        ("PUT", f"{MAPS}/x", {"metadata": {"resourceVersion": "new"}}, 400),
        ("PUT", f"{MAPS}/x", {"metadata": [1]}, 400),
        ("PUT", f"{MAPS}/x", [], 400),
        ("POST", MAPS, [], 400),
        ("DELETE", f"{MAPS}/x", {"preconditions": {"resourceVersion": 7}}, 400),
        ("GET", "http://[x/api/none", None, 404),
        ("POST", MAPS, b"x" * (3 * 1024 * 1024 + 1), 413),
    ],
)
async def test_errors_are_status_objects(
    server: SimulatedApiserver, method: str, target: str, body: Any, code: int
) -> None:
    await ask(server.address, "POST", MAPS, config_map("x"))
    answer = await ask(server.address, method, target, body)
    assert (answer.code, answer.json["kind"], answer.json["code"]) == (code, "Status", code)


async def test_a_deletion_with_preconditions(server: SimulatedApiserver) -> None:
    created = (await ask(server.address, "POST", MAPS, config_map("x"))).json
    wrong = {"preconditions": {"uid": "somebody else's"}}
    assert (await ask(server.address, "DELETE", f"{MAPS}/x", wrong)).code == 409
    right = {"preconditions": {"uid": created["metadata"]["uid"], "resourceVersion": "2"}}
    assert (await ask(server.address, "DELETE", f"{MAPS}/x", right)).code == 200


async def test_deleting_a_namespace_empties_it(server: SimulatedApiserver, store: Store) -> None:
    await ask(server.address, "POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
    await ask(server.address, "POST", MAPS, config_map("x"))
    assert (await ask(server.address, "DELETE", "/api/v1/namespaces/default")).code == 200
    assert store.snapshot("configmaps") == {}


async def test_a_collection_can_be_deleted_by_label(server: SimulatedApiserver) -> None:
    for name, label in (("x", "1"), ("y", "2")):
        body = {"metadata": {"name": name, "labels": {"l": label}}}
        assert (await ask(server.address, "POST", MAPS, body)).code == 201
    assert (await ask(server.address, "DELETE", f"{MAPS}?labelSelector=l%3D1")).code == 200
    left = (await ask(server.address, "GET", MAPS)).json["items"]
    assert [item["metadata"]["name"] for item in left] == ["y"]


async def test_dry_run_changes_nothing(server: SimulatedApiserver, store: Store) -> None:
    assert (await ask(server.address, "POST", f"{MAPS}?dryRun=All", config_map("x"))).code == 201
    assert store.revision == 1


async def test_lists_page_by_page_show_one_moment(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        for name in "abcde":
            await client.ask("POST", MAPS, config_map(name))
        first = (await client.ask("GET", f"{MAPS}?limit=2")).json
        assert first["metadata"]["remainingItemCount"] == 3
        await client.ask("DELETE", f"{MAPS}/c")
        await client.ask("POST", MAPS, config_map("cc"))
        names = [item["metadata"]["name"] for item in first["items"]]
        token = first["metadata"]["continue"]
        while token:
            page = (await client.ask("GET", f"{MAPS}?limit=2&continue={token}")).json
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"] == "6"
            names += [item["metadata"]["name"] for item in page["items"]]
            token = page["metadata"].get("continue")
    assert names == list("abcde")


async def test_a_page_of_a_forgotten_moment_is_gone(server: SimulatedApiserver, store: Store) -> None:
    for name in "abc":
        await ask(server.address, "POST", MAPS, config_map(name))
    token = (await ask(server.address, "GET", f"{MAPS}?limit=1")).json["metadata"]["continue"]
    await ask(server.address, "POST", MAPS, config_map("d"))
    store.compact(store.revision)
    gone = await ask(server.address, "GET", f"{MAPS}?limit=1&continue={token}")
    assert (gone.code, gone.json["reason"]) == (410, "Expired")


async def test_kubectl_gets_tables(server: SimulatedApiserver, store: Store) -> None:
    life.furnish(store)
    table = (await ask(server.address, "GET", "/api/v1/pods", headers=TABLE)).json
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert table["rows"][0]["cells"][:4] == ["web-1", "1/1", "Running", 0]


async def test_discovery_names_what_is_served(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        assert (await client.ask("GET", "/version")).json["minor"] == "32"
        assert (await client.ask("GET", "/api")).json["versions"] == ["v1"]
        groups = (await client.ask("GET", "/apis")).json["groups"]
        for path in ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]:
            resources = (await client.ask("GET", path)).json["resources"]
            for resource in [entry for entry in resources if "/" not in entry["name"]]:
                found = await client.ask("GET", f"{path}/{resource['name']}")
                assert found.json["kind"] == f"{resource['kind']}List"


async def test_echo_shows_the_request_as_it_was_sent(server: SimulatedApiserver) -> None:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(
            b"PUT /echo?a=%2F&b HTTP/1.1\r\nhOST: x\r\nX-Stream-Protocol-Version: v4\r\n"
            b"x-stream-protocol-version: v1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\x00\xffx\r\n0\r\n\r\n"
        )
        answer = await Client(stream).answer_to_foreign_request()
    seen = answer.json
    assert (seen["method"], seen["target"]) == ("PUT", "/echo?a=%2F&b")
    assert seen["headers"] == [
        ["hOST", "x"],
        ["X-Stream-Protocol-Version", "v4"],
        ["x-stream-protocol-version", "v1"],
        ["Transfer-Encoding", "chunked"],
    ]
    assert seen["body"].encode("latin-1") == b"\x00\xffx"
    assert (seen["connection"], seen["sequence"]) == (1, 1)


async def test_echo_counts_what_is_too_large_to_return(server: SimulatedApiserver) -> None:
    body = pattern(5_000_000)
    seen = (await ask(server.address, "POST", "/echo?body=digest", body)).json
    assert (seen["body_length"], seen["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("mode", ["plain", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 65536, 200_001])
async def test_bytes_of_any_size_and_framing(server: SimulatedApiserver, mode: str, size: int) -> None:
    answer = await ask(server.address, "GET", f"/bytes?size={size}&mode={mode}")
    assert answer.body == pattern(size)
    framing = {"plain": "content-length", "chunked": "transfer-encoding", "close": "connection"}
    assert framing[mode] in answer.headers


async def test_head_has_the_length_and_no_body(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        answer = await client.ask("HEAD", "/bytes?size=5")
        assert (answer.headers["content-length"], answer.body) == ("5", b"")
        assert (await client.ask("HEAD", "/version")).body == b""
        assert (await client.ask("GET", "/livez")).body == b"ok"


async def test_expect_100_continue_is_answered_before_the_body(server: SimulatedApiserver) -> None:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send_all(b"hi")
            assert (await Client(stream).answer_to_foreign_request()).json["body"] == "hi"


async def test_a_refused_body_does_not_reach_the_next_request(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        assert (await client.ask("POST", "/apis/none", b"GET /evil HTTP/1.1\r\n\r\n")).code == 404
        assert (await client.ask("GET", "/livez")).body == b"ok"
    assert not any("evil" in seen.request.target for seen in server.seen)


@pytest.mark.parametrize("size", [60_000, 900_000])
async def test_a_head_as_large_as_the_apiserver_takes(server: SimulatedApiserver, size: int) -> None:
    answer = await ask(server.address, "GET", "/livez", headers={"Authorization": "Bearer " + "x" * size})
    assert answer.code == 200


async def test_what_is_no_http_gets_400(server: SimulatedApiserver) -> None:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(b"what?\r\n\r\n")
        with trio.fail_after(5):
            answer = b"".join([bytes(data) async for data in stream])
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /ec",
        b"",
    ],
)
async def test_a_client_that_breaks_off_or_talks_nonsense_hurts_nobody_else(
    server: SimulatedApiserver, sent: bytes
) -> None:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(sent)
        await stream.send_eof()
        with trio.fail_after(5):
            while await stream.receive_some():
                pass
    assert (await ask(server.address, "GET", "/livez")).code == 200


async def test_a_bug_costs_one_answer_and_is_remembered(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(request: Request) -> None:
        raise RuntimeError("broken on purpose")

    server = SimulatedApiserver(store, "a")
    server.fault = broken
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with connected(server.address) as client:
            assert (await client.ask("GET", "/livez")).code == 500
            server.fault = None
            assert (await client.ask("GET", "/livez")).code == 200
        nursery.cancel_scope.cancel()
    assert [str(failure) for failure in server.failures] == ["broken on purpose"]
    assert "broken on purpose" in capsys.readouterr().err


async def test_counts_are_kept_by_verb_and_resource(server: SimulatedApiserver) -> None:
    await ask(server.address, "GET", MAPS)
    await ask(server.address, "POST", MAPS, config_map("x"))
    await ask(server.address, "GET", f"{MAPS}/x")
    assert server.counts == {"LIST configmaps": 1, "POST configmaps": 1, "GET configmaps": 1}
    assert [(seen.verb, seen.code) for seen in server.seen][1] == ("POST configmaps", 201)


async def test_a_store_that_is_gone_is_an_error_of_the_server(store: Store) -> None:
    async def commit(write: object) -> Any:
        raise ConnectionError("the store is gone")

    server = SimulatedApiserver(store, "a", commit=commit)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        answer = await ask(server.address, "POST", MAPS, config_map("x"))
        assert (answer.code, answer.json["reason"]) == (500, "InternalError")
        nursery.cancel_scope.cancel()


def test_an_unknown_reason_is_a_bug() -> None:
    with pytest.raises(KeyError):
        ApiError("NoSuchReason", "")
