"""http mode, byte for byte: scripted clients and backends on real sockets, a real worker between them."""

from __future__ import annotations

import json

import pytest
import trio

from lbproxy.core.config import AllDown, ForwardedFor, Http, Idle, Retry, Timeouts
from tests.dataplane.harness import PATIENCE, Balancer, Handler, Lab, read_all, read_exactly, read_head, reset

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(response: bytes, heads: list[bytes] | None = None) -> Handler:
    """A backend that gives the same answer to each request (requests without bodies)."""

    async def serve(stream: trio.SocketStream) -> None:
        while True:
            head = await next_head(stream)
            if not head:
                return
            if heads is not None:
                heads.append(head)
            await stream.send_all(response)

    return serve


async def next_head(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        chunk = await stream.receive_some(1)
        if not chunk:
            return b""
        data += chunk
    return bytes(data)


def request(target: str = "/api/v1/pods", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: api", *lines, "", ""]).encode()


async def ask(lb: Balancer, data: bytes) -> bytes:
    """Send, and read to FIN."""
    async with await lb.connect() as client:
        await client.send_all(data)
        return await read_all(client)


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


# -- what the backend sees ---------------------------------------------------------------------------------------


async def test_lines_keep_their_order_their_case_and_their_repeats(lab: Lab) -> None:
    heads: list[bytes] = []
    lb = await lab.balance("http", await lab.backend(answering(OK, heads)))
    async with await lb.connect() as client:
        await client.send_all(
            request(
                "/api/v1/namespaces/x%2Fy//services/http:z:/proxy/a%20b?q=%2f&q=1",
                "X-Stream-Protocol-Version: v4.channel.k8s.io",
                "x-stream-protocol-version: v3.channel.k8s.io",
                "Accept-Encoding: gzip",
                "Connection: keep-alive, X-Hop",
                "X-Hop: secret",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "TE: trailers, deflate",
                "Authorization: Bearer t",
            )
        )
        assert await read_exactly(client, len(OK)) == OK
    lines = heads[0].decode().split("\r\n")[:-2]
    assert lines == [
        "GET /api/v1/namespaces/x%2Fy//services/http:z:/proxy/a%20b?q=%2f&q=1 HTTP/1.1",
        "Host: api",
        "X-Stream-Protocol-Version: v4.channel.k8s.io",
        "x-stream-protocol-version: v3.channel.k8s.io",
        "Accept-Encoding: gzip",
        "TE: trailers",
        "Authorization: Bearer t",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: api",
        "X-Forwarded-For: 127.0.0.1",
    ]


@pytest.mark.parametrize(
    ("http", "sent", "expected"),
    [
        (Http(), "X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 10.0.0.9, 127.0.0.1"),
        (Http(forwarded_for=ForwardedFor.SET), "X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 127.0.0.1"),
        (Http(forwarded_for=ForwardedFor.OFF), "X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 10.0.0.9"),
        (Http(trusted_proxies=("10.0.0.0/8",)), "X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 127.0.0.1"),
        (Http(trusted_proxies=("127.0.0.0/8",)), "X-Forwarded-Proto: https", "X-Forwarded-Proto: https"),
        (Http(), "X-Forwarded-Proto: https", "X-Forwarded-Proto: http"),
        (Http(host="masters"), "A: b", "Host: masters"),
    ],
)
async def test_forwarded_headers_follow_the_configuration(lab: Lab, http: Http, sent: str, expected: str) -> None:
    heads: list[bytes] = []
    lb = await lab.balance("http", await lab.backend(answering(OK, heads)), http=http)
    await ask(lb, request("/", sent, "Connection: close"))
    name = expected.partition(":")[0].lower()
    found = [line for line in heads[0].decode().split("\r\n") if line.lower().startswith(name + ":")]
    assert found == [expected]


async def test_host_backend_names_the_backend(lab: Lab) -> None:
    heads: list[bytes] = []
    backend = await lab.backend(answering(OK, heads))
    lb = await lab.balance("http", backend, http=Http(host="backend"))
    await ask(lb, request("/", "Connection: close"))
    assert f"Host: {backend.text}".encode() in heads[0].split(b"\r\n")
    assert heads[0].count(b"\r\nHost:") == 1


async def test_an_absolute_target_becomes_a_path_and_names_the_host(lab: Lab) -> None:
    heads: list[bytes] = []
    lb = await lab.balance("http", await lab.backend(answering(OK, heads)))
    await ask(lb, request("http://other:8080/api?x=1", "Connection: close"))
    assert heads[0].startswith(b"GET /api?x=1 HTTP/1.1\r\nHost: other:8080\r\n")


# -- keeping connections -----------------------------------------------------------------------------------------


async def test_backend_connections_are_kept_and_shared_between_clients(lab: Lab) -> None:
    opened = 0

    async def count(stream: trio.SocketStream) -> None:
        nonlocal opened
        opened += 1
        await answering(OK)(stream)

    lb = await lab.balance("http", await lab.backend(count))
    for _ in range(3):
        async with await lb.connect() as client:
            for _ in range(3):
                await client.send_all(request())
                assert await read_exactly(client, len(OK)) == OK
    assert opened == 1
    assert lb.backends[0].reused == 8
    assert lb.listener.requests == 9


async def test_pipelined_requests_are_answered_in_order(lab: Lab) -> None:
    async def number(stream: trio.SocketStream) -> None:
        while head := await next_head(stream):
            text = head.split(b" ")[1]
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    lb = await lab.balance("http", await lab.backend(number), await lab.backend(number))
    data = b"".join(request(f"/{i}", *(["Connection: close"] if i == 19 else [])) for i in range(20))
    response = await ask(lb, data)
    assert [body.split(b"HTTP/1.1")[0] for body in response.split(b"\r\n\r\n")[1:]] == [b"/%d" % i for i in range(20)]


async def test_a_request_may_come_one_byte_at_a_time(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for byte in request("/slow"):
            await client.send_all(bytes([byte]))
        assert await read_exactly(client, len(OK)) == OK


async def test_a_stale_kept_connection_is_never_the_clients_problem(lab: Lab) -> None:
    closed = trio.Event()

    async def close_after_one(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(OK)
        await stream.send_eof()
        closed.set()

    lb = await lab.balance("http", await lab.backend(close_after_one))
    async with await lb.connect() as client:
        for method in ("GET", "DELETE", "GET"):
            await client.send_all(request(method=method))
            assert await read_exactly(client, len(OK)) == OK


async def test_a_get_is_sent_again_once_when_its_connection_dies_before_the_answer(lab: Lab) -> None:
    seen: list[bytes] = []

    async def die(stream: trio.SocketStream) -> None:
        seen.append(await next_head(stream))
        reset(stream)

    lb = await lab.balance("http", await lab.backend(die), await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        await client.send_all(request())
        assert await read_exactly(client, len(OK)) == OK
    assert len(seen) == 1


async def test_a_kept_connection_that_dies_with_a_get_on_it_sends_it_to_another_backend(lab: Lab) -> None:
    seen: list[bytes] = []

    async def die_at_the_second(stream: trio.SocketStream) -> None:
        seen.append(await next_head(stream))
        if len(seen) == 1:
            await stream.send_all(OK)
            seen.append(await next_head(stream))
        reset(stream)

    lb = await lab.balance("http", await lab.backend(die_at_the_second), await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for _ in range(4):
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
    assert len(seen) == 2  # the backend may be about to die: it is not the one that is asked again


async def test_a_mutation_is_never_sent_twice(lab: Lab) -> None:
    seen: list[bytes] = []

    async def die(stream: trio.SocketStream) -> None:
        seen.append(await next_head(stream))
        reset(stream)

    lb = await lab.balance("http", await lab.backend(die), await lab.backend(die), await lab.backend(die))
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        seen.clear()
        response = await ask(lb, request("/x", "Connection: close", method=method))
        assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"Retry-After" not in response
        assert len(seen) == 1


# -- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_request_bodies_are_streamed_through(lab: Lab, framing: str) -> None:
    payload = bytes(range(256)) * 8192  # 2 MiB
    if framing == "length":
        header, wire = f"Content-Length: {len(payload)}", payload
    else:
        header = "Transfer-Encoding: chunked"
        wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (4096, payload[i : i + 4096]) for i in range(0, len(payload), 4096))
        wire += b"0\r\nX-Trailer: t\r\n\r\n"

    async def digest(stream: trio.SocketStream) -> None:
        while await next_head(stream):
            assert await read_exactly(stream, len(wire)) == wire
            await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(digest))
    async with await lb.connect() as client:
        for _ in range(2):
            await client.send_all(request("/x", header, method="POST") + wire)
            assert await read_exactly(client, len(OK)) == OK
    assert lb.listener.bytes_in == 2 * len(wire)


async def test_nothing_is_held_back_while_a_body_is_coming(lab: Lab) -> None:
    async def echo_pieces(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (piece := await read_exactly(stream, 8)) != b"0\r\n\r\n...":
            await stream.send_all(piece)

    lb = await lab.balance("http", await lab.backend(echo_pieces))
    async with await lb.connect() as client:
        await client.send_all(request("/x", "Transfer-Encoding: chunked", method="POST"))
        assert (await read_head(client)).startswith(b"HTTP/1.1 200 OK")
        for piece in (b"3\r\nabc\r\n", b"3\r\ndef\r\n"):
            await client.send_all(piece)
            assert await read_exactly(client, 8) == piece


async def test_expect_100_continue(lab: Lab) -> None:
    async def ask_for_it(stream: trio.SocketStream) -> None:
        head = await next_head(stream)
        assert b"\r\nExpect: 100-continue\r\n" in head
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await read_exactly(stream, 5) == b"hello"
        await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(ask_for_it))
    async with await lb.connect() as client:
        await client.send_all(request("/x", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
        assert await read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"hello")
        assert await read_exactly(client, len(OK)) == OK


async def test_an_answer_before_the_body_is_relayed_and_the_connection_closed(lab: Lab) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")

    lb = await lab.balance("http", await lab.backend(refuse))
    async with await lb.connect() as client:
        await client.send_all(request("/x", "Content-Length: 5000000", method="POST") + b"x" * 1000)
        assert await read_all(client) == b"HTTP/1.1 413 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"


@pytest.mark.parametrize(
    ("method", "response", "expected"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", None),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", None),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
            None,
        ),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        ("GET", b"HTTP/1.1 200 OK\r\nWarning: a\r\nWarning: b\r\nContent-Length: 0\r\n\r\n", None),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nConnection: X-Hop\r\nContent-Length: 1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ),
    ],
)
async def test_responses_pass_as_they_are_and_the_connection_stays(
    lab: Lab, method: str, response: bytes, expected: bytes | None
) -> None:
    expected = expected or response
    lb = await lab.balance("http", await lab.backend(answering(response)))
    async with await lb.connect() as client:
        for _ in range(3):
            await client.send_all(request(method=method))
            assert await read_exactly(client, len(expected)) == expected
    assert lb.backends[0].reused == 2


async def test_a_response_delimited_by_close_stays_so(lab: Lab) -> None:
    async def old(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nuntil the end")

    lb = await lab.balance("http", await lab.backend(old))
    assert await ask(lb, request()) == b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\nuntil the end"


async def test_an_http_1_0_client_gets_a_plain_body_and_a_close(lab: Lab) -> None:
    heads: list[bytes] = []
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    lb = await lab.balance("http", await lab.backend(answering(chunked, heads)))
    response = await ask(lb, request(version="1.0"))
    assert response == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde"
    assert heads[0].startswith(b"GET /api/v1/pods HTTP/1.1\r\n")


async def test_an_http_1_0_client_may_ask_to_keep_the_connection(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for _ in range(2):
            await client.send_all(request("/", "Connection: keep-alive", version="1.0"))
            head = await read_head(client)
            assert b"\r\nConnection: keep-alive\r\n" in head
            assert await read_exactly(client, 2) == b"ok"


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(
    "start", [b"Content-Length: 100\r\n\r\nonly this", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\na"]
)
async def test_a_truncated_response_is_never_made_whole(lab: Lab, how: str, start: bytes) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + start)
        if how == "reset":
            await stream.receive_some(1)
            reset(stream)

    lb = await lab.balance("http", await lab.backend(cut))
    async with await lb.connect() as client:
        await client.send_all(request())
        got = await read_exactly(client, len(b"HTTP/1.1 200 OK\r\n" + start))
        assert got == b"HTTP/1.1 200 OK\r\n" + start
        if how == "reset":
            connection = next(iter(lb.worker._listeners[0].connections))
            connection._backend._reactor.handlers  # type: ignore[attr-defined]  # noqa: B018
            await client.send_all(b"")
            backend = connection._backend  # type: ignore[attr-defined]
            backend.sock.send(b"x")  # what makes the scripted backend reset
            with pytest.raises(trio.BrokenResourceError):
                await read_all(client)
        else:
            assert await read_all(client) == b""
    assert (await lb.log_line())["end"] == "SD"


async def test_a_watch_leaves_as_it_comes_and_has_no_response_timeout(lab: Lab) -> None:
    proceed = trio.Event()

    async def watch(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await proceed.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await read_exactly(stream, 1) if False else None
            await stream.send_all(b"7\r\n{event}\r\n")
            await gate.wait()
        await stream.send_all(b"0\r\n\r\n")

    gate = trio.Event()
    lb = await lab.balance("http", await lab.backend(watch), timeouts=Timeouts(response_header=0.1))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods?watch=true"))
        await lb.until(lambda: lb.backends[0].long_streams == 1)
        await trio.sleep(0.4)  # four times the response timeout, which is not for watches
        proceed.set()
        assert (await read_head(client)).startswith(b"HTTP/1.1 200 OK")
        assert await read_exactly(client, 12) == b"7\r\n{event}\r\n"
        gate.set()
        assert await read_exactly(client, 29) == b"7\r\n{event}\r\n7\r\n{event}\r\n0\r\n\r\n"
        await lb.until(lambda: lb.backends[0].long_streams == 0)
        line = await lb.log_line()
        assert (line["long"], line["end"]) == (True, "--")


async def test_a_client_that_leaves_a_watch_frees_the_backend_at_once(lab: Lab) -> None:
    freed = trio.Event()

    async def watch(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            await read_all(stream)
        finally:
            freed.set()

    lb = await lab.balance("http", await lab.backend(watch))
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods?watch=1"))
        await read_head(client)
    with trio.fail_after(1):
        await freed.wait()
    await lb.until(lambda: lb.listener.active == 0 and lb.backends[0].active == 0)


async def test_a_stalled_client_stops_the_backend(lab: Lab) -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            sent += await stream.socket.send(b"x" * 65536)

    lb = await lab.balance("http", await lab.backend(pour))
    async with await lb.connect() as client:
        await client.send_all(request())
        await read_head(client)
        last = -1
        while sent != last:
            last = sent
            await trio.sleep(0.3)
        connection = next(iter(lb.worker._listeners[0].connections))
        assert 0 < len(connection.out) <= 65536  # type: ignore[attr-defined]
        before = sent
        await read_exactly(client, 8 << 20)
        await lb.until(lambda: sent > before)
        reset(client)
    await lb.until(lambda: lb.listener.active == 0)


# -- upgrades ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["SPDY/3.1", "websocket", "anything/9"])
async def test_any_upgrade_becomes_a_relay_and_no_byte_is_lost(lab: Lab, token: str) -> None:
    async def switch(stream: trio.SocketStream) -> None:
        head = await next_head(stream)
        assert f"\r\nUpgrade: {token}\r\n".encode() in head
        assert b"\r\nConnection: Upgrade\r\n" in head
        await stream.send_all(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {token}\r\nConnection: Upgrade\r\n\r\nfirst".encode()
        )
        async for data in stream:
            await stream.send_all(data.upper())
        await stream.send_all(b"bye")
        await stream.send_eof()

    lb = await lab.balance("http", await lab.backend(switch))
    async with await lb.connect() as client:
        target = "/api/v1/namespaces/d/pods/p/exec?command=sh"
        await client.send_all(
            request(target, "Connection: Upgrade", f"Upgrade: {token}", "Content-Length: 0", method="POST") + b"early"
        )
        head = await read_head(client)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert f"\r\nUpgrade: {token}\r\nConnection: Upgrade\r\n".encode() in head
        assert await read_exactly(client, 10) == b"firstEARLY"
        assert lb.backends[0].long_streams == 1
        await client.send_all(b"abc")
        assert await read_exactly(client, 3) == b"ABC"
        await client.send_eof()
        assert await read_all(client) == b"bye"
    await lb.until(lambda: lb.backends[0].long_streams == 0 and lb.backends[0].active == 0)
    line = await lb.log_line()
    assert (line["status"], line["end"], line["bytes_in"], line["bytes_out"]) == (101, "--", 8, len(head) + 16)


async def test_a_refused_upgrade_is_an_ordinary_answer(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for _ in range(2):
            await client.send_all(request("/x", "Connection: Upgrade", "Upgrade: websocket"))
            assert await read_exactly(client, len(OK)) == OK


async def test_an_upgrade_nobody_asked_for_is_a_bad_gateway(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(b"HTTP/1.1 101 Surprise\r\n\r\n")))
    assert (await ask(lb, request("/", "Connection: close"))).startswith(b"HTTP/1.1 502 ")


# -- refusals and own answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70000, 431),
        (b"GET /" + b"y" * 70000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 5000 + b"\r\n", 431),
    ],
)
async def test_what_is_malformed_is_refused_and_reaches_nobody(lab: Lab, data: bytes, status: int) -> None:
    heads: list[bytes] = []
    lb = await lab.balance("http", await lab.backend(answering(OK, heads)), http=Http(max_header=65536))
    response = await ask(lb, data)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    answer = json.loads(body_of(response))
    assert (answer["kind"], answer["code"], answer["status"]) == ("Status", status, "Failure")
    assert b"\r\nConnection: close\r\n" in response
    assert b"Retry-After" not in response
    assert heads == []
    assert (await lb.log_line())["end"] == "PR"


@pytest.mark.parametrize(
    "chunk", [b"x\r\n", b"5 \r\nhello\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"3\nabc\n", b"0x3\r\nabc\r\n"]
)
async def test_a_bad_chunk_ends_the_request_and_the_backend_cannot_take_it_for_whole(lab: Lab, chunk: bytes) -> None:
    whole = False

    async def read_body(stream: trio.SocketStream) -> None:
        nonlocal whole
        await next_head(stream)
        data = b""
        while chunk := await stream.receive_some(1000):
            data += chunk
        whole = data.endswith(b"0\r\n\r\n")

    lb = await lab.balance("http", await lab.backend(read_body))
    head = request("/x", "Transfer-Encoding: chunked", method="POST")
    response = await ask(lb, head + b"2\r\nok\r\n" + chunk + b"0\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 400 ")
    assert not whole


async def test_heads_up_to_a_mebibyte_pass(lab: Lab) -> None:
    token = "t" * 900_000
    data = request("/" + "p" * 65536, f"Authorization: Bearer {token}", "Connection: close")
    head = b""

    async def read_it(stream: trio.SocketStream) -> None:
        nonlocal head
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive_some(65536)
        await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(read_it))
    assert (await ask(lb, data)).startswith(b"HTTP/1.1 200 OK")
    assert f"Bearer {token}".encode() in head


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_retry_after_exactly_when_no_backend_was_reached(lab: Lab, method: str) -> None:
    lb = await lab.balance("http", lab.refusing(), lab.refusing())
    async with await lb.connect() as client:
        for _ in range(2):  # the connection stays usable
            await client.send_all(request(method=method))
            head = await read_head(client)
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nRetry-After: 1\r\n" in head
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            status = json.loads(await read_exactly(client, length))
            assert status["reason"] == "ServiceUnavailable"
            assert status["details"] == {"retryAfterSeconds": 1}


async def test_no_backend_at_all(lab: Lab) -> None:
    lb = await lab.balance("http", lab.refusing(), all_down=AllDown.REJECT)
    await ask(lb, request("/", "Connection: close"))
    await lb.log_line()
    # the only backend of a pool is never put aside by live traffic (nginx), so reject is about health checks
    lb.worker._pools["p"].peers[0].usable = False
    response = await ask(lb, request("/", "Connection: close"))
    assert b"no backend of pool p is available" in response
    assert (await lb.log_line())["end"] == "PC"
    assert lb.worker.stats().no_backend == {"p": 1}


async def test_a_backend_that_does_not_answer_is_a_504_without_retry_after(lab: Lab) -> None:
    async def ignore(stream: trio.SocketStream) -> None:
        await read_all(stream)

    lb = await lab.balance("http", await lab.backend(ignore), timeouts=Timeouts(response_header=0.2))
    response = await ask(lb, request("/", "Connection: close"))
    assert response.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert b"Retry-After" not in response
    line = await lb.log_line()
    assert line["end"] == "sH"
    assert line["backend"] == lb.worker._pools["p"].peers[0].address.text


@pytest.mark.parametrize(
    "response",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_malformed_response_is_a_bad_gateway(lab: Lab, response: bytes) -> None:
    lb = await lab.balance("http", await lab.backend(answering(response)))
    assert (await ask(lb, request("/", "Connection: close"))).startswith(b"HTTP/1.1 502 ")
    assert (await lb.log_line())["end"] == "PH"


async def test_bytes_behind_a_response_never_reach_the_next_client(lab: Lab) -> None:
    lb = await lab.balance(
        "http", await lab.backend(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    )
    async with await lb.connect() as client:
        for _ in range(3):
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK


async def test_max_body(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)), http=Http(max_body=10))
    for framing in ("Content-Length: 11", "Transfer-Encoding: chunked"):
        data = b"x" * 11 if "Length" in framing else b"b\r\nxxxxxxxxxxx\r\n0\r\n\r\n"
        response = await ask(lb, request("/x", framing, method="POST") + data)
        assert response.startswith(b"HTTP/1.1 413 "), framing


async def test_a_head_that_never_ends_is_a_408(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)), timeouts=Timeouts(request_header=0.2))
    assert (await ask(lb, b"GET / HT")).startswith(b"HTTP/1.1 408 ")
    assert (await lb.log_line())["end"] == "cR"


async def test_idle_connections_are_closed_on_both_sides(lab: Lab) -> None:
    closed = trio.Event()

    async def until_closed(stream: trio.SocketStream) -> None:
        await answering(OK)(stream)
        closed.set()

    lb = await lab.balance(
        "http", await lab.backend(until_closed), timeouts=Timeouts(keepalive=0.3), idle=Idle(timeout=0.3)
    )
    async with await lb.connect() as client:
        await client.send_all(request())
        await read_exactly(client, len(OK))
        with trio.fail_after(PATIENCE):
            assert await client.receive_some(1) == b""
            await closed.wait()
    assert lb.backends[0].idle == 0


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_leaves_while_the_backend_thinks_frees_it(lab: Lab, how: str) -> None:
    asked, freed = trio.Event(), trio.Event()

    async def think(stream: trio.SocketStream) -> None:
        await next_head(stream)
        asked.set()
        await read_all(stream)
        freed.set()

    lb = await lab.balance("http", await lab.backend(think))
    client = await lb.connect()
    await client.send_all(request())
    with trio.fail_after(PATIENCE):
        await asked.wait()
        if how == "fin":
            await client.aclose()
        else:
            reset(client)
        await freed.wait()
    assert (await lb.log_line())["end"] == "CH"


async def test_requests_are_spread_and_a_refusing_backend_skipped(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)), lab.refusing(), await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for _ in range(20):
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
    totals = [backend.total for backend in lb.backends]
    assert totals == [10, 0, 10]
    assert lb.backends[1].failed == 1


@pytest.mark.parametrize("tries", [1, 2])
async def test_retry_tries_is_a_limit(lab: Lab, tries: int) -> None:
    lb = await lab.balance(
        "http", lab.refusing(), await lab.backend(answering(OK)), retry=Retry(tries=tries), all_down=AllDown.REJECT
    )
    response = await ask(lb, request("/", "Connection: close"))
    assert response.startswith(b"HTTP/1.1 503" if tries == 1 else b"HTTP/1.1 200")
