"""Corner cases that were wrong once: what comes together, too early, too late or not at all."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from lbproxy.core.config import Address, AllDown, TcpSide, Timeouts
from lbproxy.core.health import Health
from lbproxy.core.messages import Drain, SetHealth, encode
from lbproxy.dataplane.backend import BackendConnection
from lbproxy.dataplane.half import Half
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.sockets import open_connection
from lbproxy.dataplane.timers import NEVER, UNFILED
from tests.dataplane.harness import PATIENCE, Balancer, Lab, read_all, read_exactly, read_head, reset
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_watches import HEAD, TARGET, Masters, chunk, event, payload, sending, until_events


async def all_down(lb: Balancer) -> None:
    lb.control.send(encode(SetHealth("p", 0, Health.DOWN, clear_failures=False)))
    await lb.until(lambda: not lb.worker._pools["p"].peers[0].usable)


# -- dialling ----------------------------------------------------------------------------------------------------


async def test_a_tcp_connection_that_ends_while_it_is_made_is_not_kept(lab: Lab) -> None:
    lb = await lab.balance("tcp", lab.refusing(), all_down=AllDown.REJECT)
    await all_down(lb)
    with socket.socket() as client:
        client.connect(("127.0.0.1", lb.port))
        await lb.until(lambda: lb.listener.accepted == 1)
    assert lb.listener.terminations["PC"] == 1
    assert lb.listener.active == 0


async def test_what_a_backend_says_with_its_connect_is_not_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes and its FIN are in the event that tells of the connect, and edge-triggered epoll says it once."""
    listening = socket.create_server(("127.0.0.1", 0))
    lab.at_end(listening.close)
    host, port = listening.getsockname()

    def connect_and_be_greeted(address: Address, side: TcpSide) -> socket.SocketType:
        sock = open_connection(address, side)
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"banner")
        return sock

    monkeypatch.setattr("lbproxy.dataplane.dial.open_connection", connect_and_be_greeted)
    lb = await lab.balance("tcp", Address(f"{host}:{port}", host, port))
    async with await lb.connect() as client:
        assert await read_all(client) == b"banner"


async def test_a_unix_backend_whose_queue_is_full_is_a_failed_dial(lab: Lab, tmp_path: Any) -> None:
    path = str(tmp_path / "full")
    listening = socket.socket(socket.AF_UNIX)
    lab.at_end(listening.close)
    listening.bind(path)
    listening.listen(0)
    filler = socket.socket(socket.AF_UNIX)
    lab.at_end(filler.close)
    filler.connect(path)

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")

    lb = await lab.balance("tcp", Address("unix:" + path, path, 0, "unix"), await lab.backend(greet))
    async with await lb.connect() as client:
        assert await read_all(client) == b"hello"
    assert lb.backends[0].failed == 1


# -- deadlines ---------------------------------------------------------------------------------------------------


async def warm(lb: Balancer, client: trio.SocketStream) -> None:
    """Leave a backend connection idle."""
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK


@pytest.mark.parametrize("upload", [False, True])
async def test_the_time_between_requests_does_not_cut_the_next_one(lab: Lab, upload: bool) -> None:
    proceed = trio.Event()

    async def slow_the_second_time(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(OK)
        await next_head(stream)
        await proceed.wait()
        await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(slow_the_second_time), timeouts=Timeouts(keepalive=0.2))
    async with await lb.connect() as client:
        await warm(lb, client)
        if upload:
            await client.send_all(request("/", "Content-Length: 2", method="PUT") + b"x")
        else:
            await client.send_all(request("/api/v1/pods?watch=1"))
        await trio.sleep(0.6)
        if upload:
            await client.send_all(b"y")
        proceed.set()
        assert await read_exactly(client, len(OK)) == OK
    assert lb.backends[0].reused == 1


async def test_a_body_that_stops_coming_does_not_hold_a_backend_for_ever(lab: Lab) -> None:
    async def read(stream: trio.SocketStream) -> None:
        await read_all(stream)

    lb = await lab.balance("http", await lab.backend(read), timeouts=Timeouts(response_header=0.3))
    async with await lb.connect() as client:
        await client.send_all(request("/", "Content-Length: 9", method="PUT") + b"x")
        assert (await read_head(client)).startswith(b"HTTP/1.1 408 ")
        await lb.until(lambda: not lb.backends[0].active)
    assert lb.backends[0].failed == 0
    assert lb.listener.terminations["cR"] == 1


# -- retries -----------------------------------------------------------------------------------------------------


async def test_a_request_that_was_sent_once_is_never_answered_with_retry_after(lab: Lab) -> None:
    """The backend takes a request, resets the connection and listens no more: nobody is left for the second try."""
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    lb = await lab.balance("http", Address(f"{host}:{port}", host, port))
    server = trio.socket.from_stdlib_socket(listening)
    async with await lb.connect() as client:
        await client.send_all(request())
        accepted, _ = await server.accept()
        backend = trio.SocketStream(accepted)
        await next_head(backend)
        await backend.send_all(OK)
        assert await read_exactly(client, len(OK)) == OK
        await client.send_all(request("/again", "Connection: close"))
        await next_head(backend)
        server.close()
        reset(backend)
        answer = await read_all(client)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" not in answer


async def test_a_request_whose_answer_has_begun_is_not_sent_again(lab: Lab) -> None:
    seen = 0

    async def hint_and_die(stream: trio.SocketStream) -> None:
        nonlocal seen
        seen += 1
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await trio.sleep(0.1)
        reset(stream)

    lb = await lab.balance("http", await lab.backend(hint_and_die), await lab.backend(hint_and_die))
    async with await lb.connect() as client:
        await client.send_all(request("/", "Connection: close"))
        answer = await read_all(client)
    assert answer.count(b"HTTP/1.1 103 ") == 1
    assert b"HTTP/1.1 502 " in answer
    assert seen == 1


# -- many requests at once ---------------------------------------------------------------------------------------


async def test_a_thousand_requests_in_one_segment_are_all_answered(lab: Lab) -> None:
    lb = await lab.balance("http", lab.refusing(), all_down=AllDown.REJECT)
    await all_down(lb)
    count = 1000
    async with await lb.connect() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, request() * (count - 1) + request("/", "Connection: close"))
        answer = await read_all(client)
    assert answer.count(b"HTTP/1.1 503 ") == count
    assert lb.listener.requests == count
    assert lb.worker.stats().internal_errors == 0
    assert lb.backends[0].active == 0


# -- truncation --------------------------------------------------------------------------------------------------


async def test_a_plain_body_for_http_1_0_that_is_cut_is_cut_by_a_reset(lab: Lab) -> None:
    """Without framing, FIN is the end of a whole body."""

    async def die(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    lb = await lab.balance("http", await lab.backend(die))
    async with await lb.connect() as client:
        await client.send_all(request(version="1.0"))
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)


@pytest.mark.parametrize("why", ["keepalive", "drain"])
async def test_the_end_of_a_response_waits_for_a_slow_client(lab: Lab, why: str) -> None:
    """The backend has said all; what the client has not taken yet is still part of the response."""
    body = b"x" * 65000
    sent = 0

    async def until_held(stream: trio.SocketStream) -> None:
        # Small responses, pipelined, until the balancer holds one: then its backend is done with it.
        nonlocal sent
        while await next_head(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sent += 1

    lb = await lab.balance("http", await lab.backend(until_held), timeouts=Timeouts(keepalive=0.2))
    async with await lb.connect() as client:
        (connection,) = await one_connection(lb)
        while not connection.out:
            before = lb.listener.requests
            await client.send_all(request())
            await lb.until(lambda before=before: lb.listener.requests > before)  # type: ignore[misc]
        if why == "drain":
            lb.control.send(encode(Drain(PATIENCE)))
            await lb.until(lambda: lb.worker._listeners[0].draining)
        await trio.sleep(0.6)
        received = await read_all(client)
        assert received.count(b"HTTP/1.1 200 OK") == sent
        assert received.count(b"x") == sent * len(body)


async def one_connection(lb: Balancer) -> set[Any]:
    await lb.until(lambda: bool(lb.worker._listeners[0].connections))
    return lb.worker._listeners[0].connections


async def test_a_draining_worker_lets_go_of_its_listening_sockets_at_once(lab: Lab) -> None:
    """Also when nothing else happens in it: a connection would wait in the queue for nobody."""
    listening = socket.create_server(("127.0.0.1", 0))
    lab.at_end(listening.close)

    async def hold(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)

    lb = await lab.balance("tcp", await lab.backend(hold), timeouts=Timeouts(connect=0.1))
    async with await lb.connect():
        await lb.until(lambda: lb.backends[0].active == 1 and not lb.worker._reactor.timers)
        (sock,) = lb.worker._listeners[0]._sockets.values()
        lb.control.send(encode(Drain(PATIENCE)))
        await lb.until(lambda: lb.worker._listeners[0].draining)
        assert sock.fileno() == -1


# -- asking another ----------------------------------------------------------------------------------------------


def with_failures(lb: Balancer, backend: int) -> None:
    """No pick finds it for a while, though the checks have nothing against it; the others' failures do not count."""
    lb.worker._reactor.refresh()
    for index, peer in enumerate(lb.worker._pools["p"].peers):
        peer.max_fails = int(index == backend)
        peer.fails, peer.checked = peer.max_fails, lb.worker._reactor.second
        peer.fail_timeout = 60


async def test_a_request_is_asked_again_where_it_was_if_no_pick_would_find_another(lab: Lab) -> None:
    async def once(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(OK)
        await next_head(stream)

    lb = await lab.balance("http", await lab.backend(once), await lab.backend(once), all_down=AllDown.REJECT)
    with_failures(lb, 1)
    async with await lb.connect() as client:
        for _ in range(2):
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
    assert [backend.total for backend in lb.backends] == [3, 0]


async def test_and_a_watch(lab: Lab) -> None:
    seen = trio.Event()
    masters = Masters(sending(HEAD + chunk(event(5)), "reset", seen), sending(HEAD + chunk(event(6)), "stay"))
    lb = await masters.start(lab, 2, all_down=AllDown.REJECT)
    with_failures(lb, 1)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 1)
        seen.set()
        assert payload(await until_events(client, 1)) == event(6)
    assert lb.listener.watches_resumed == 1


# -- accounts ----------------------------------------------------------------------------------------------------


async def test_a_malformed_request_is_not_the_fault_of_who_failed_before_it(lab: Lab) -> None:
    async def dies(stream: trio.SocketStream) -> None:
        await next_head(stream)

    lb = await lab.balance("http", await lab.backend(dies), await lab.backend(dies))
    async with await lb.connect() as client:
        await client.send_all(request())
        head = await read_head(client)
        assert head.split()[1] == b"502"
        await read_exactly(client, int(head.lower().split(b"content-length: ")[1].split()[0]))
        before = [backend.ends for backend in lb.backends]
        await client.send_all(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        assert b"HTTP/1.1 400 " in await read_all(client)
    assert [backend.ends for backend in lb.backends] == before
    assert (await lb.log_line())["backend"]
    line = await lb.log_line()
    assert (line["status"], line["backend"]) == (400, None)


@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_a_bug_in_the_first_moment_of_a_connection(lab: Lab, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends both sides, and the backend's place is given back once."""
    ended = trio.Event()

    async def until_the_end(stream: trio.SocketStream) -> None:
        try:
            await read_all(stream)
        finally:
            ended.set()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(BackendConnection, "write", fail)
    monkeypatch.setattr(Half, "pump", fail)
    lb = await lab.balance(mode, await lab.backend(until_the_end))
    with socket.create_connection(("127.0.0.1", lb.port)) as client:
        client.send(request())
        await lb.until(lambda: lb.listener.terminations.get("ID") == 1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with trio.fail_after(PATIENCE):
        await ended.wait()
    assert lb.worker.stats().internal_errors == 1
    assert (lb.listener.active, lb.backends[0].active) == (0, 0)


# -- MSG_MORE ----------------------------------------------------------------------------------------------------


async def test_bytes_do_not_wait_for_a_fin_that_does_not_come(lab: Lab) -> None:
    """The kernel holds back for 200 ms what was sent with MSG_MORE: so only FIN's own event may ask for it."""
    upgraded = trio.Event()
    delays: list[float] = []

    async def switch(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await upgraded.wait()
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        began = trio.current_time()
        assert await read_exactly(stream, 5) == b"early"
        delays.append(trio.current_time() - began)

    lb = await lab.balance("http", await lab.backend(switch))
    connections: set[Any] = lb.worker._listeners[0].connections
    for number in range(5):  # a busy machine may be late by itself, but not each time
        upgraded = trio.Event()
        async with await lb.connect() as client:
            await client.send_all(request("/", "Connection: Upgrade", "Upgrade: x"))
            await lb.until(lambda: any(one.backend_peer for one in connections))
            await client.send_all(b"early")
            await lb.until(lambda: any(one._readable for one in connections))
            upgraded.set()
            assert (await read_head(client)).startswith(b"HTTP/1.1 101 ")
            with trio.fail_after(PATIENCE):
                while len(delays) == number:  # the client's own FIN would release them
                    await trio.sleep(0.01)
        await lb.until(lambda: lb.listener.active == 0)
    assert min(delays) < 0.1


# -- the reactor -------------------------------------------------------------------------------------------------


async def test_what_a_timer_closes_while_nothing_happens_is_closed() -> None:
    now = 100.0
    reactor = Reactor(clock=lambda: now)
    ours, theirs = socket.socketpair()

    class Idle:
        deadline = NEVER
        filed = UNFILED

        def on_timeout(self) -> None:
            reactor.close(ours)

    with theirs:
        reactor.timers.arm(Idle(), 0.5)
        now += 1.0
        theirs.setblocking(False)
        assert not reactor._burst()
        assert theirs.recv(1) == b""
    reactor.close_all()
