"""Watches over a real socket: what a client sees, event by event."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.demo.query import Selector, Term
from lbproxy.demo.replica import LaggingStore
from lbproxy.demo.server import Settings, SimulatedApiserver
from lbproxy.demo.store import EventType, Store, Verb, Write
from lbproxy.demo.watch import End, View, WatchHub
from tests.demo.client import Client, connected, until
from tests.demo.test_store import do, make, writes

PODS = "/api/v1/pods?watch=1"


def names(events: list[Any]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


def revisions(events: list[Any]) -> list[int]:
    return [int(event["object"]["metadata"]["resourceVersion"]) for event in events]


async def take(client: Client, target: str, count: int | None, headers: dict[str, str] | None = None) -> list[Any]:
    """The first `count` events of a watch, or all until it ends."""
    await client.open_watch(target, headers)
    return await client.events(count)


async def watching(server: SimulatedApiserver, count: int) -> None:
    """Until `count` watches have joined."""
    await until(lambda: len(server.hub.watchers()) == count)


async def test_a_revision_means_everything_after_it(server: SimulatedApiserver, store: Store) -> None:
    for name in "abcd":
        store.write(make(name))
    async with connected(server.address) as client:
        assert revisions(await take(client, f"{PODS}&resourceVersion=3", 2)) == [4, 5]


@pytest.mark.parametrize("query", ["", "&resourceVersion=0"])
async def test_no_revision_means_the_present_as_added_and_then_what_comes(
    server: SimulatedApiserver, store: Store, query: str
) -> None:
    store.write(make("b"))
    store.write(make("a"))
    store.write(make("b", 1, verb=Verb.UPDATE))
    async with connected(server.address) as client, trio.open_nursery() as nursery:

        async def write_later() -> None:
            await watching(server, 1)
            store.write(make("c"))

        nursery.start_soon(write_later)
        events = await take(client, PODS + query, 3)
    assert names(events) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
    assert revisions(events) == [3, 4, 5]


async def test_the_head_comes_before_any_event(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        await client.send("GET", PODS)
        with trio.fail_after(2):
            head = await client.head()
    assert head.code == 200
    assert head.headers["transfer-encoding"] == "chunked"
    assert head.headers["x-demo-apiserver"] == "a"


async def test_too_old_is_an_event_in_a_stream_that_says_200_and_ends_well(
    server: SimulatedApiserver, store: Store
) -> None:
    for name in "abc":
        store.write(make(name))
    store.compact(3)
    async with connected(server.address) as client:
        events = await take(client, f"{PODS}&resourceVersion=2", None)
        assert [event["type"] for event in events] == ["ERROR"]
        assert (events[0]["object"]["code"], events[0]["object"]["reason"]) == (410, "Expired")
        assert client.http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


async def test_the_timeout_ends_it_with_the_last_chunk_and_the_connection_lives_on(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        assert await take(client, f"{PODS}&timeoutSeconds=0.05", None) == []
        client.http.start_next_cycle()
        assert (await client.ask("GET", "/livez")).body == b"ok"


async def test_bookmarks_come_to_those_who_asked(store: Store) -> None:
    server = SimulatedApiserver(store, "a", settings=Settings(bookmark_interval=0.02))
    store.write(make("a"))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve)
        async with connected(address) as client:
            events = await take(client, f"{PODS}&allowWatchBookmarks=true&resourceVersion=2", 2)
        assert [event["type"] for event in events] == ["BOOKMARK", "BOOKMARK"]
        assert events[0]["object"]["kind"] == "Pod"
        assert revisions(events) == [2, 2]
        async with connected(address) as client, connected(address) as asking:
            nursery.start_soon(take, asking, f"{PODS}&allowWatchBookmarks=true&resourceVersion=2", 2)
            quiet = await take(client, f"{PODS}&resourceVersion=2&timeoutSeconds=0.1", None)
        assert quiet == []
        nursery.cancel_scope.cancel()


async def test_a_bookmark_shortly_before_the_end(server: SimulatedApiserver, store: Store) -> None:
    store.write(make("a"))
    async with connected(server.address) as client:
        events = await take(client, f"{PODS}&allowWatchBookmarks=true&resourceVersion=2&timeoutSeconds=2.05", 1)
    assert [event["type"] for event in events] == ["BOOKMARK"]


async def test_a_watch_list_ends_its_beginning_with_an_annotated_bookmark(
    server: SimulatedApiserver, store: Store
) -> None:
    store.write(make("a"))
    target = f"{PODS}&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with connected(server.address) as client:
        added, end = await take(client, target, 2)
    assert added["type"] == "ADDED"
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_from_the_future_waits_for_it(store: Store) -> None:
    lagging = LaggingStore(store)
    lagging.hold()
    for name in "abc":
        store.write(make(name))
    server = SimulatedApiserver(lagging.store, "behind")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with connected(server.address) as client:
            await client.open_watch(f"{PODS}&resourceVersion=3")
            lagging.release()
            assert revisions(await client.events(1)) == [4]
        nursery.cancel_scope.cancel()


async def test_the_old_path_form_and_one_name(server: SimulatedApiserver, store: Store) -> None:
    store.write(make("a"))
    store.write(make("b"))
    for target in ("/api/v1/watch/pods?fieldSelector=metadata.name%3Db", "/api/v1/watch/namespaces/ns/pods/b"):
        async with connected(server.address) as client:
            assert names(await take(client, target, 1)) == [("ADDED", "b")]
    assert server.counts["WATCH pods"] == 2


async def test_table_events_for_kubectl(server: SimulatedApiserver, store: Store) -> None:
    store.write(make("a"))
    async with connected(server.address) as client:
        accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        (event,) = await take(client, PODS, 1, accept)
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][0] == "a"


async def test_an_http_1_0_client_gets_lines_until_the_close(server: SimulatedApiserver, store: Store) -> None:
    store.write(make("a"))
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(f"GET {PODS}&timeoutSeconds=0.05 HTTP/1.0\r\n\r\n".encode())
        with trio.fail_after(5):
            answer = b"".join([bytes(data) async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert json.loads(body)["type"] == "ADDED"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (End.CLEAN, None),
        (End.FIN, h11.RemoteProtocolError),
        (End.MID_FIN, h11.RemoteProtocolError),
        (End.RST, trio.BrokenResourceError),
        (End.MID_RST, trio.BrokenResourceError),
    ],
)
async def test_every_way_to_end_a_watch(
    server: SimulatedApiserver, store: Store, end: End, error: type[Exception] | None
) -> None:
    store.write(make("a"))
    async with connected(server.address) as client:
        await client.open_watch(PODS)
        await client.events(1)
        assert server.end_watches(end, resource="nodes") == 0
        assert server.end_watches(end) == 1
        with pytest.raises(error) if error else nullcontext():
            assert await client.event() is None
    assert bool(client.buffer) == (end in (End.MID_FIN, End.MID_RST))


async def test_a_client_that_leaves_is_forgotten(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        await client.send("GET", PODS)
        await client.head()
        await watching(server, 1)
    await watching(server, 0)


async def test_many_watchers_see_the_same_and_every_event_is_encoded_once(
    server: SimulatedApiserver, store: Store
) -> None:
    seen: list[list[int]] = []

    async def watch() -> None:
        async with connected(server.address) as client:
            seen.append(revisions(await take(client, f"{PODS}&resourceVersion=1", 40)))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(watch)
        await watching(server, 20)
        for number in range(40):
            store.write(make(f"pod-{number}"))
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
    assert seen == [list(range(2, 42))] * 20
    assert all(list(event.renderings) == [(EventType.ADDED, False)] for event in store.log())


async def test_a_reader_that_stalls_gets_everything_later(server: SimulatedApiserver, store: Store) -> None:
    async with connected(server.address) as client:
        await client.open_watch(f"{PODS}&resourceVersion=1")
        await watching(server, 1)
        for number in range(300):
            body = {"metadata": {"name": f"pod-{number}"}, "ballast": "x" * 20_000}
            store.write(Write(Verb.CREATE, "pods", ("ns", f"pod-{number}"), body))
            await trio.lowlevel.checkpoint()
        (watcher,) = server.hub.watchers()
        assert watcher.connection.pending
        got = revisions(await client.events(300))
    assert got == list(range(2, 302))


def sized(write: Write) -> Write:
    if write.body is None:
        return write
    return replace(write, body={**write.body, "size": "small" if write.body["value"] < 4 else "large"})


@given(st.lists(writes, max_size=40), st.data())
def test_a_selecting_watch_shows_what_a_selecting_list_would(script: list[Write], data: st.DataObject) -> None:
    """ADDED when an object comes into the selection, DELETED when it leaves: replayed, it is the filtered list."""
    store = Store()
    for write in script:
        do(store, sized(write))
    start = data.draw(st.integers(store.compacted, store.revision))
    chosen = Selector(fields=(Term("size", frozenset({"small"}), negated=False),))
    view = View("pods", chosen, table=False, framed=False)
    held = {key[1] for key, found in store.snapshot("pods", start).items() if chosen.matches(key, found.body)}
    for event in store.since("pods", start):
        line = view.line(event)
        if line is None:
            continue
        shown = json.loads(line)
        name = shown["object"]["metadata"]["name"]
        assert (name in held) == (shown["type"] != "ADDED")
        (held.discard if shown["type"] == "DELETED" else held.add)(name)
    assert held == {key[1] for key, found in store.snapshot("pods").items() if chosen.matches(key, found.body)}


async def test_joining_between_an_event_and_its_sending_doubles_nothing(server: SimulatedApiserver) -> None:
    """An event may wait in a group when somebody joins who has it from the log already."""
    hub: WatchHub = server.hub
    store = server.store
    async with connected(server.address) as first, connected(server.address) as second:
        for client in (first, second):
            await client.open_watch(f"{PODS}&resourceVersion=1")
        await watching(server, 2)
        _, two = hub.watchers()
        hub.leave(two)
        store.write(make("a"))  # waits to be sent to the other one
        two.connection.feed(
            two.view.frame([line for event in store.since("pods", 1) if (line := two.view.line(event))])
        )
        hub.join(two)
        store.write(make("b"))
        for client in (first, second):
            assert revisions(await client.events(2)) == [2, 3]
