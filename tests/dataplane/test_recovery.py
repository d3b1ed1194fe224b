"""After an outage: what comes all at once is let in at a rate. What a dying apiserver refuses goes to another."""

from __future__ import annotations

import json
from statistics import median

import pytest
import trio

from lbproxy.core.config import Http
from lbproxy.core.health import Health
from tests.dataplane.harness import Lab, read_exactly, read_head
from tests.dataplane.test_dead import begun, found
from tests.dataplane.test_exchange import OK, next_head, request

GOING = b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\ngoing"
# Word for word what kube-apiserver says, of every version (WithWaitGroup in its filters).
GOING_STATUS = (
    b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"apiserver is shutting down",'
    b'"reason":"ServiceUnavailable","code":503}\n\n'
)
GOING_503 = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%b" % (len(GOING_STATUS), GOING_STATUS)
)
OVERLOADED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nnone"


async def serve(stream: trio.SocketStream) -> None:
    while await next_head(stream):
        await stream.send_all(OK)


async def outage(lab: Lab, rate: int) -> trio.SocketStream:
    lb = await lab.balance("http", await lab.backend(serve), http=Http(recovery_rate=rate))
    found(lb, 0, Health.DOWN)
    found(lb, 0, Health.UP)
    return await lb.connect()


async def statuses(client: trio.SocketStream, target: str, count: int) -> list[int]:
    """Of so many requests, one after the other."""
    found = []
    for _ in range(count):
        await client.send_all(request(target))
        head = await read_head(client)
        length = int(head.partition(b"Content-Length: ")[2].split()[0])
        body = await read_exactly(client, length)
        found.append(int(head.split()[1]))
        if found[-1] == 429:
            assert b"Retry-After: 1\r\n" in head
            assert json.loads(body)["details"] == {"retryAfterSeconds": 1}
    return found


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/pods",
        "/api/v1/namespaces/d/pods?limit=500",
        "/api/v1/pods?resourceVersion=5&watch=true",
        "/api/v1/watch/namespaces/d/pods",
        "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dx",
    ],
)
async def test_lists_and_watches_after_an_outage(lab: Lab, target: str) -> None:
    client = await outage(lab, 5)
    async with client:
        got = await statuses(client, target, 20)
        assert got[:5] == [200] * 5
        assert 429 in got
        assert await statuses(client, "/api/v1/namespaces/d/pods/p", 20) == [200] * 20  # what is cheap passes


async def test_the_rate_holds_and_is_over_in_time(lab: Lab) -> None:
    """Whoever is turned away comes again; watches and lists share one rate."""
    lb = await lab.balance("http", await lab.backend(serve), http=Http(recovery_rate=5, recovery_time=20.0))
    found(lb, 0, Health.DOWN)
    found(lb, 0, Health.UP)
    targets = ["/api/v1/pods?watch=true", "/api/v1/nodes"]
    async with await lb.connect() as client:
        admitted = []
        began = trio.current_time()
        for second in range(10):
            got = [await statuses(client, targets[number % 2], 1) for number in range(20)]
            admitted.append(got.count([200]))
            lb.advance(1.0)
            assert sum(admitted) <= 5 + 5 * (second + trio.current_time() - began)  # time passes for real, too
        assert min(admitted) >= 5
        lb.advance(10.0)
        assert await statuses(client, targets[0], 20) == [200] * 20


async def test_who_is_alive_and_not_ready_meets_no_herd(lab: Lab) -> None:
    """After an outage the first who is alive gets everybody, while it starts; being ready is no leave for more."""
    lb = await lab.balance("http", await lab.backend(serve), http=Http(recovery_rate=5))
    found(lb, 0, Health.DOWN)
    found(lb, 0, Health.NOT_READY)
    async with await lb.connect() as client:
        got = await statuses(client, "/api/v1/pods", 20)
        assert got[:5] == [200] * 5
        assert got.count(429) > 10
        found(lb, 0, Health.UP)
        assert (await statuses(client, "/api/v1/pods", 20)).count(429) > 10


@pytest.mark.parametrize("by_checks", [True, False])
async def test_when_nobody_is_alive_the_answer_is_there_at_once(lab: Lab, by_checks: bool) -> None:
    """Backends that never answer a connect, once checks have found that; or that refuse it, and nobody knows yet."""
    make = lab.black_hole if by_checks else lab.refusing
    lb = await lab.balance("http", make(), make(), make())
    if by_checks:
        for index in range(3):
            found(lb, index)
    took = []
    for _ in range(9):
        async with await lb.connect() as client:
            began = trio.current_time()
            await client.send_all(request("/api/v1/pods"))
            head = await read_head(client)
            took.append(trio.current_time() - began)
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in head
    assert median(took) < 0.1, took


async def connected_and_read(port: int) -> bytes:
    """The RST may come before connect() is over."""
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        return await sock.recv(1)


async def test_when_nobody_is_alive_a_tcp_client_is_reset_at_once(lab: Lab) -> None:
    lb = await lab.balance("tcp", *[lab.black_hole() for _ in range(3)])
    for index in range(3):
        found(lb, index)
    took = []
    for _ in range(9):
        began = trio.current_time()
        with pytest.raises(ConnectionResetError):
            await connected_and_read(lb.port)
        took.append(trio.current_time() - began)
    assert median(took) < 0.1, took


async def test_no_limit(lab: Lab) -> None:
    client = await outage(lab, 0)
    async with client:
        assert await statuses(client, "/api/v1/pods", 50) == [200] * 50


async def test_no_outage_no_limit(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(serve), await lab.backend(serve), http=Http(recovery_rate=1))
    found(lb, 0, Health.DOWN)
    found(lb, 0, Health.UP)
    async with await lb.connect() as client:
        assert await statuses(client, "/api/v1/pods", 50) == [200] * 50


@pytest.mark.parametrize("refusal", [GOING, GOING_503])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_refusal_of_one_that_shuts_down_goes_to_another(lab: Lab, refusal: bytes, method: str) -> None:
    """It has not begun with the request, whatever the method."""
    asked: list[bytes] = []

    async def going_once(stream: trio.SocketStream) -> None:
        while head := await next_head(stream):
            asked.append(head)
            await stream.send_all(refusal if len(asked) == 1 else OK)

    lb = await lab.balance("http", await lab.backend(going_once), await lab.backend(going_once))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods/p", method=method))
        assert await read_exactly(client, len(OK)) == OK
    assert len(asked) == 2
    assert sorted(sum(backend.retries.values()) for backend in lb.backends) == [0, 1]
    assert [backend.active for backend in lb.backends] == [0, 0]


@pytest.mark.parametrize("etcd", ["gone", "back at one"])
async def test_a_refusal_goes_to_one_that_is_not_ready_if_there_is_no_better(lab: Lab, etcd: str) -> None:
    """etcd is, or was, gone: the others are alive, and nobody is well but perhaps the one that shuts down."""

    async def going(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            await stream.send_all(GOING_503)

    lb = await lab.balance("http", await lab.backend(going), await lab.backend(serve))
    found(lb, 0, Health.NOT_READY)
    found(lb, 1, Health.NOT_READY)
    if etcd == "back at one":
        found(lb, 0, Health.UP)
    async with await lb.connect() as client:
        assert await statuses(client, "/api/v1/namespaces/d/pods/p", 2) == [200, 200]


@pytest.mark.parametrize("cut", [GOING_503.index(b"{"), GOING_503.index(b"is shutting")])
async def test_a_refusal_whose_reason_comes_later(lab: Lab, cut: int) -> None:
    """Its head says 503, and that can mean anything."""
    first = True

    async def going_once(stream: trio.SocketStream) -> None:
        nonlocal first
        while await next_head(stream):
            if first:
                first = False
                await stream.send_all(GOING_503[:cut])
                await lb.until(lambda: begun(lb))
                await stream.send_all(GOING_503[cut:])
            else:
                await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(going_once), await lab.backend(going_once))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods/p"))
        assert await read_exactly(client, len(OK)) == OK


async def test_the_head_alone_of_an_answer_to_head(lab: Lab) -> None:
    async def unavailable(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            await stream.send_all(GOING_503[: GOING_503.index(b"{")])

    lb = await lab.balance("http", await lab.backend(unavailable), await lab.backend(unavailable))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods/p", method="HEAD"))
        assert b" 503 " in await read_head(client)


@pytest.mark.parametrize("answer", [OVERLOADED, UNAVAILABLE])
async def test_any_other_refusal_is_the_clients(lab: Lab, answer: bytes) -> None:
    async def busy(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            await stream.send_all(answer)

    lb = await lab.balance("http", await lab.backend(busy), await lab.backend(busy))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods/p"))
        assert await read_exactly(client, len(answer)) == answer
    assert [backend.retries for backend in lb.backends] == [{}, {}]


async def test_a_refused_body_is_not_sent_again(lab: Lab) -> None:
    async def going(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            await stream.send_all(GOING)

    lb = await lab.balance("http", await lab.backend(going), await lab.backend(going))
    async with await lb.connect() as client:
        await client.send_all(b"POST /api/v1/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert b"429" in await read_head(client)
    assert [backend.retries for backend in lb.backends] == [{}, {}]


async def test_when_all_shut_down_the_refusal_is_the_clients(lab: Lab) -> None:
    async def going(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            await stream.send_all(GOING)

    lb = await lab.balance("http", await lab.backend(going), await lab.backend(going))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods/p"))
        head = await read_head(client)
        assert b" 429 " in head
        assert b"Retry-After: 1" in head
