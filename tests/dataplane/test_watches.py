"""A watch whose backend goes away goes on from another one, in the same response: nothing missed, nothing doubled."""

from __future__ import annotations

import re

import pytest
import trio

from lbproxy.core.config import Http, Timeouts
from lbproxy.core.health import Health
from tests.dataplane.harness import Balancer, Handler, Lab, read_all, read_exactly, read_head, reset
from tests.dataplane.test_exchange import OK, next_head, request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
TARGET = "/api/v1/namespaces/default/configmaps?allowWatchBookmarks=true&resourceVersion=4&watch=true"


def event(version: int, kind: str = "MODIFIED") -> bytes:
    return (
        f'{{"type":"{kind}","object":{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"x",'
        f'"namespace":"default","resourceVersion":"{version}"}},"data":{{"a":"b"}}}}}}\n'
    ).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Masters:
    """Backends that play a part each, whichever is asked first; `targets` are what they were asked, in order."""

    def __init__(self, *parts: Handler) -> None:
        self.targets: list[str] = []
        self._parts = list(parts)

    async def serve(self, stream: trio.SocketStream) -> None:
        head = await next_head(stream)
        if head:
            self.targets.append(head.split()[1].decode())
            await self._parts.pop(0)(stream)

    async def start(self, lab: Lab, count: int = 3, **options: object) -> Balancer:
        return await lab.balance("http", *[await lab.backend(self.serve) for _ in range(count)], **options)  # type: ignore[arg-type]


def sending(data: bytes, end: str = "close", once: trio.Event | None = None) -> Handler:
    """Send this, and then: reset | close | stay. A RST destroys what was not read yet: `once` that has happened."""

    async def part(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        if end == "stay":
            await trio.sleep_forever()
        elif end == "reset":
            assert once is not None
            await once.wait()
            reset(stream)

    return part


def payload(chunked: bytes) -> bytes:
    """Of a body whose data has no CRLF in it."""
    return b"".join(chunked.split(b"\r\n")[1::2])


async def until_events(client: trio.SocketStream, count: int) -> bytes:
    """The body so far, once so many events are there."""
    body = bytearray()
    with trio.fail_after(10):
        while body.count(b"}}}\n") < count:
            got = await client.receive_some(65536)
            assert got, bytes(body)
            body += got
    return bytes(body)


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("partial", [b"", chunk(event(6))[:30], chunk(event(6))[:-3]])
async def test_a_watch_goes_on(lab: Lab, end: str, partial: bytes) -> None:
    first = HEAD + chunk(event(5)) + partial
    seen = trio.Event()
    masters = Masters(sending(first, end, seen), sending(HEAD + chunk(event(6)) + chunk(event(7)), "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        assert await read_head(client) == HEAD
        body = await until_events(client, 1)
        seen.set()
        assert payload(body + await until_events(client, 2)) == event(5) + event(6) + event(7)
        assert masters.targets == [
            TARGET,
            "/api/v1/namespaces/default/configmaps?resourceVersion=5&allowWatchBookmarks=true&watch=true",
        ]
        assert lb.listener.watches_resumed == 1
        assert sorted(backend.long_streams for backend in lb.backends) == [0, 0, 1]
        assert sorted(backend.active for backend in lb.backends) == [0, 0, 1]


async def test_wherever_it_is_cut(lab: Lab) -> None:
    """Every byte of a stream, from the first of its body on: each event comes once and in order."""
    stream = chunk(event(5)) + chunk(event(6) + event(7)) + chunk(event(8)[:40]) + chunk(event(8)[40:])

    async def rest(sock: trio.SocketStream) -> None:
        version = int(re.search(r"resourceVersion=(\d+)", masters.targets[-1])[1])  # type: ignore[index]
        await sock.send_all(HEAD + b"".join(chunk(event(later)) for later in range(version + 1, 10)))
        await trio.sleep_forever()

    for cut in range(len(stream) + 1):
        masters = Masters(sending(HEAD + stream[:cut]), rest)
        lb = await masters.start(lab, 2)
        async with await lb.connect() as client:
            await client.send_all(request(TARGET))
            assert await read_head(client) == HEAD
            assert payload(await until_events(client, 5)) == b"".join(map(event, range(5, 10))), cut
        lb.control.close()


async def test_a_drain_does_not_end_one_that_is_being_resumed(lab: Lab) -> None:
    """Its end would leave the dial behind, which would ask for it in the name of nobody."""
    gone = trio.Event()
    masters = Masters(sending(HEAD + chunk(event(5)), "reset", gone))
    lb = await lab.balance("http", await lab.backend(masters.serve), lab.black_hole())
    client = await lb.connect()
    await client.send_all(request(TARGET))
    await read_head(client)
    await until_events(client, 1)
    (connection,) = lb.worker._listeners[0].connections
    gone.set()
    await lb.until(lambda: connection.watch.resuming)  # type: ignore[attr-defined]
    lb.worker._reactor.refresh()
    assert not connection.finish(60.0)
    lb.worker._reactor.settle()
    client.socket.close()
    await lb.until(lambda: lb.listener.active == 0)
    assert [(backend.active, backend.long_streams) for backend in lb.backends] == [(0, 0), (0, 0)]


async def test_several_deaths_in_a_row(lab: Lab) -> None:
    parts = [sending(HEAD + chunk(event(version)) + b"ff\r\n{") for version in range(5, 9)]
    masters = Masters(*parts, sending(HEAD + chunk(event(9)), "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        assert payload(await until_events(client, 5)) == b"".join(map(event, range(5, 10)))
    assert lb.listener.watches_resumed == 4


async def test_one_that_cannot_go_on_is_passed_over(lab: Lab) -> None:
    """A master that has just started knows no old version: it says so with a status, or as the first event."""
    gone = b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410}}\n'
    masters = Masters(
        sending(HEAD + chunk(event(5))),
        sending(HEAD + chunk(gone) + LAST, "stay"),
        sending(HEAD + chunk(event(6)), "stay"),
    )
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        assert payload(await until_events(client, 2)) == event(5) + event(6)
    assert len(masters.targets) == 3
    assert lb.listener.relists_avoided == 1


TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "saved"),
    [
        ([HEAD], 1),  # lost at once, before an event
        ([HEAD, HEAD], 2),
        ([HEAD + chunk(event(5)) + b"ff\r\n{"], 0),
        ([HEAD + chunk(event(5)), TOO_MANY], 0),
    ],
)
async def test_what_saves_a_list(lab: Lab, parts: list[bytes], saved: int) -> None:
    """A reflector that loses a watch just watches again, unless it was very short. Half an event does not matter."""
    lb = await Masters(*map(sending, parts), sending(HEAD + chunk(event(6)), "stay")).start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 1)
        assert lb.listener.relists_avoided == saved


async def test_an_error_on_the_way_saves_a_list(lab: Lab) -> None:
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    masters = Masters(sending(HEAD + chunk(event(5))), sending(unavailable), sending(HEAD + chunk(event(6)), "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 2)
    assert lb.listener.relists_avoided == 1


async def test_a_request_for_a_watch_that_is_repeated_saves_a_list(lab: Lab) -> None:
    lb = await Masters(sending(b""), sending(HEAD + chunk(event(5)), "stay")).start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 1)
    assert (lb.listener.watches_resumed, lb.listener.relists_avoided) == (0, 1)


async def test_a_version_that_nobody_remembers(lab: Lab) -> None:
    """Every master is asked once, the lost one last, then the client is told what that said, and lists again."""
    gone = b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410}}\n'
    masters = Masters(sending(HEAD + chunk(event(5))), *[sending(HEAD + chunk(gone) + LAST, "stay")] * 9)
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        expected = chunk(event(5)) + chunk(gone) + LAST
        assert await read_exactly(client, len(expected)) == expected
    assert len(masters.targets) == 4
    assert lb.listener.watches_not_resumed == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 410 Gone\r\n\r\n"])
async def test_when_nobody_goes_on_it_ends_as_at_a_timeout(lab: Lab, answer: bytes) -> None:
    masters = Masters(sending(HEAD + chunk(event(5)) + b"99\r\n{"), *[sending(answer)] * 3, sending(OK, "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        expected = chunk(event(5)) + LAST
        assert await read_exactly(client, len(expected)) == expected
        await client.send_all(request("/api/v1/pods"))  # the connection goes on
        assert await read_exactly(client, len(OK)) == OK
    assert lb.listener.watches_not_resumed == 1


@pytest.mark.parametrize(
    ("target", "head"),
    [
        ("/api/v1/pods?watch=true", HEAD),  # no version is safe: what exists is being sent
        (TARGET, HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")),
        (TARGET, HEAD.replace(b"application/json", b"text/plain")),
    ],
)
async def test_where_it_is_not_safe_it_is_cut(lab: Lab, target: str, head: bytes) -> None:
    seen = trio.Event()
    masters = Masters(sending(head + chunk(event(5, "ADDED")), "reset", seen))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(target))
        await read_head(client)
        seen.set()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)
    assert len(masters.targets) == 1


async def test_off_means_off(lab: Lab) -> None:
    seen = trio.Event()
    masters = Masters(sending(HEAD + chunk(event(5)), "reset", seen))
    lb = await masters.start(lab, http=Http(watch_failover=False))
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        seen.set()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)


async def test_a_truncated_list_stays_truncated(lab: Lab) -> None:
    """R3: a list is no watch, and a cut one is never made whole."""
    seen = trio.Event()
    masters = Masters(sending(HEAD + chunk(b'{"kind":"PodList","items":[') + b"ff\r\n{", "reset", seen))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods"))
        await read_head(client)
        seen.set()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)


async def test_an_http_1_0_client_gets_events_without_chunks(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5)) + b"9"), sending(HEAD + chunk(event(6)) + LAST, "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET, version="1.0"))
        head, _, body = (await read_all(client)).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == event(5) + event(6)


async def test_an_end_by_the_server_is_an_end(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5)) + LAST, "stay"), sending(OK, "stay"))
    lb = await masters.start(lab, 1)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        expected = HEAD + chunk(event(5)) + LAST
        assert await read_exactly(client, len(expected)) == expected
    assert masters.targets == [TARGET]
    assert lb.listener.watches_resumed == 0


async def test_an_end_by_a_master_that_shuts_down_is_none(lab: Lab) -> None:
    leave = trio.Event()

    async def leaving(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + chunk(event(5)))
        await leave.wait()
        await stream.send_all(chunk(event(6)) + LAST)

    masters = Masters(leaving, sending(HEAD + chunk(event(7)), "stay"))
    lb = await masters.start(lab, 2)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        body = await until_events(client, 1)
        pool = lb.worker._pools["p"]
        pool.set_health([backend.active for backend in lb.backends].index(1), Health.NOT_READY)
        leave.set()
        assert payload(body + await until_events(client, 2)) == event(5) + event(6) + event(7)


async def test_a_master_that_takes_the_request_and_says_nothing(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5))), sending(b"", "stay"), sending(HEAD + chunk(event(6)), "stay"))
    lb = await masters.start(lab, timeouts=Timeouts(response_header=0.3))
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        assert payload(await until_events(client, 2)) == event(5) + event(6)


async def test_the_client_leaves_while_another_master_is_asked(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5))), sending(b"", "stay"))
    lb = await masters.start(lab)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await lb.until(lambda: len(masters.targets) == 2)
    await lb.until(lambda: not lb.listener.active)
    assert [backend.active for backend in lb.backends] == [0, 0, 0]
    assert [backend.long_streams for backend in lb.backends] == [0, 0, 0]
