"""tcp mode: bytes, FIN and RST, back-pressure, and the dial that comes first."""

from __future__ import annotations

import hashlib
import os
import socket

import pytest
import trio

from lbproxy.core.config import Address, AllDown, Retry, Timeouts
from lbproxy.dataplane.half import CHUNK
from tests.dataplane.harness import PATIENCE, Balancer, Lab, connects, read_all, read_exactly, reset


async def assert_reset(lb: Balancer) -> None:
    """A new connection is reset, which may show before connect() has returned."""
    with pytest.raises((trio.BrokenResourceError, OSError)):
        async with await lb.connect() as client:
            await read_all(client)


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def test_bytes_and_half_close_pass_both_ways(lab: Lab) -> None:
    async def answer_after_eof(stream: trio.SocketStream) -> None:
        said = await read_all(stream)
        await stream.send_all(b"you said " + said)
        await stream.send_eof()

    lb = await lab.balance("tcp", await lab.backend(answer_after_eof))
    async with await lb.connect() as client:
        await client.send_all(b"hello")
        await client.send_eof()
        assert await read_all(client) == b"you said hello"
    opened = await lb.log_line()
    assert opened["event"] == "open"
    closed = await lb.log_line()
    assert (closed["end"], closed["bytes_in"], closed["bytes_out"]) == ("--", 5, 14)


async def test_the_backend_may_speak_first_and_close_first(lab: Lab) -> None:
    heard = trio.Event()

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 ready\r\n")
        await stream.send_eof()
        assert await read_all(stream) == b"bye"
        heard.set()

    lb = await lab.balance("tcp", await lab.backend(greet))
    async with await lb.connect() as client:
        assert await read_all(client) == b"220 ready\r\n"
        await client.send_all(b"bye")
        await client.send_eof()
        with trio.fail_after(PATIENCE):
            await heard.wait()


async def test_one_byte_at_a_time(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(echo))
    async with await lb.connect() as client:
        for byte in b"slowly":
            await client.send_all(bytes([byte]))
            assert await read_exactly(client, 1) == bytes([byte])


async def test_a_large_transfer_arrives_whole_in_both_directions_at_once(lab: Lab) -> None:
    payload = os.urandom(1 << 20) * 8
    lb = await lab.balance("tcp", await lab.backend(echo))
    async with await lb.connect() as client, trio.open_nursery() as nursery:

        async def send() -> None:
            await client.send_all(payload)
            await client.send_eof()

        nursery.start_soon(send)
        back = await read_all(client)
    assert hashlib.sha256(back).digest() == hashlib.sha256(payload).digest()
    await lb.until(lambda: lb.backends[0].bytes_in == len(payload) == lb.backends[0].bytes_out)


async def test_a_reset_by_the_backend_is_a_reset_for_the_client(lab: Lab) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        reset(stream)

    lb = await lab.balance("tcp", await lab.backend(hang_up))
    async with await lb.connect() as client:
        await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)
    await lb.log_line()
    assert (await lb.log_line())["end"] == "SD"


async def test_a_reset_by_the_client_is_a_reset_for_the_backend(lab: Lab) -> None:
    seen = trio.Event()

    async def wait_for_reset(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        try:
            await read_all(stream)
        except trio.BrokenResourceError:
            seen.set()

    lb = await lab.balance("tcp", await lab.backend(wait_for_reset))
    client = await lb.connect()
    assert await read_exactly(client, 5) == b"hello"
    reset(client)
    with trio.fail_after(PATIENCE):
        await seen.wait()
    await lb.log_line()
    assert (await lb.log_line())["end"] == "CD"
    await lb.until(lambda: lb.listener.active == 0)


async def test_a_stalled_reader_stops_the_writer_and_a_reset_is_still_noticed(lab: Lab) -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        while True:
            sent += await stream.socket.send(b"x" * 65536)

    lb = await lab.balance("tcp", await lab.backend(pour))
    client = await lb.connect()
    await read_exactly(client, 1)
    last = -1
    while sent != last:  # until nothing has moved for a while: every buffer on the way is full
        last = sent
        await trio.sleep(0.3)
    relay = next(iter(lb.worker._listeners[0].connections))
    assert 0 < len(relay.client.pending) <= CHUNK  # type: ignore[attr-defined]
    assert relay.backend.pending == b""  # type: ignore[attr-defined]
    reset(client)
    await lb.until(lambda: lb.listener.active == 0)


async def test_reading_resumes_after_a_stall(lab: Lab) -> None:
    size = 32 << 20

    async def pour(stream: trio.SocketStream) -> None:
        await stream.send_all(b"y" * size)
        await stream.send_eof()

    lb = await lab.balance("tcp", await lab.backend(pour))
    async with await lb.connect() as client:
        await lb.until(lambda: lb.listener.active == 1 and lb.backends[0].active == 1)
        await trio.sleep(0.2)  # let the buffers fill: the point is what happens afterwards
        assert len(await read_all(client)) == size


async def test_a_refused_dial_goes_to_the_next_backend_and_blames(lab: Lab) -> None:
    lb = await lab.balance("tcp", lab.refusing(), await lab.backend(echo))
    for _ in range(4):
        async with await lb.connect() as client:
            await client.send_all(b"ping")
            assert await read_exactly(client, 4) == b"ping"
    assert lb.backends[0].failed == 1  # max_fails 1: then it is left alone
    assert lb.backends[1].total == 4


async def test_a_dial_that_times_out_goes_to_the_next_backend(lab: Lab) -> None:
    lb = await lab.balance(
        "tcp", lab.black_hole(), await lab.backend(echo), timeouts=Timeouts(connect=0.2), retry=Retry(deadline=3)
    )
    began = trio.current_time()
    async with await lb.connect() as client:
        await client.send_all(b"ping")
        assert await read_exactly(client, 4) == b"ping"
    assert 0.15 < trio.current_time() - began < 2
    assert lb.backends[0].failed == 1


@pytest.mark.parametrize("all_down", [AllDown.TRY, AllDown.REJECT])
async def test_nobody_reachable_is_a_reset_at_once(lab: Lab, all_down: AllDown) -> None:
    lb = await lab.balance("tcp", lab.refusing(), lab.refusing(), all_down=all_down)
    began = trio.current_time()
    await assert_reset(lb)
    assert trio.current_time() - began < 0.5
    assert (await lb.log_line())["end"] == "SC"
    await assert_reset(lb)
    assert (await lb.log_line())["end"] == ("SC" if all_down is AllDown.TRY else "PC")


async def test_the_retry_deadline_bounds_all_tries_together(lab: Lab) -> None:
    lb = await lab.balance(
        "tcp",
        *(lab.black_hole() for _ in range(3)),
        timeouts=Timeouts(connect=0.3),
        retry=Retry(deadline=0.5),
    )
    began = trio.current_time()
    await assert_reset(lb)
    assert trio.current_time() - began < 1.5
    assert (await lb.log_line())["end"] == "sC"


async def test_half_close_timeout_ends_a_forgotten_half(lab: Lab) -> None:
    async def ignore(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    lb = await lab.balance("tcp", await lab.backend(ignore), timeouts=Timeouts(half_close=0.4))
    async with await lb.connect() as client:
        await client.send_eof()
        await lb.log_line()
        assert (await lb.log_line())["end"] == "sD"


async def test_idle_timeout_is_off_by_default_and_honoured_when_set(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(echo), timeouts=Timeouts(idle=0.4))
    async with await lb.connect() as client:
        for _ in range(8):  # traffic keeps it open for longer than the timeout
            await client.send_all(b"x")
            await read_exactly(client, 1)
            await trio.sleep(0.1)
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)
    await lb.log_line()
    assert (await lb.log_line())["end"] == "cD"
    assert Timeouts().idle == 0


async def test_connections_above_the_limit_are_reset_and_the_rest_served(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(echo), max_connections=2)
    first, second = await lb.connect(), await lb.connect()
    await lb.until(lambda: lb.listener.active == 2)
    await assert_reset(lb)
    assert lb.listener.refused == 1
    async with first, second:
        await second.send_all(b"still here")
        assert await read_exactly(second, 10) == b"still here"


async def test_socket_options_on_both_sides(lab: Lab) -> None:
    """R12: a peer that falls silent is found by the kernel, on either side, as the schema says.

    The backend's side gets the options when the connection is a second or two old.
    """
    lb = await lab.balance("tcp", await lab.backend(echo))
    async with await lb.connect() as client:
        await client.send_all(b"x")
        await read_exactly(client, 1)
        relay = next(iter(lb.worker._listeners[0].connections))
        tcp = socket.IPPROTO_TCP
        for half, expected in ((relay.client, (1, 1, 15, 5, 3, 30000)), (relay.backend, (1, 1, 5, 1, 5, 10000))):  # type: ignore[attr-defined]
            sock = half.sock
            await lb.until(lambda sock=sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))  # type: ignore[misc]
            assert (
                sock.getsockopt(tcp, socket.TCP_NODELAY),
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                sock.getsockopt(tcp, socket.TCP_KEEPIDLE),
                sock.getsockopt(tcp, socket.TCP_KEEPINTVL),
                sock.getsockopt(tcp, socket.TCP_KEEPCNT),
                sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
            ) == expected


async def test_ipv6(lab: Lab) -> None:
    listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    listening.setblocking(False)
    lab.at_end(listening.close)
    port = listening.getsockname()[1]
    lb = await lab.balance("tcp", Address(f"[::1]:{port}", "::1", port, "inet6"))
    async with await lb.connect():
        await lb.until(lambda: connects(lb.backends[0]) == 1)


@pytest.mark.parametrize("ends", [True, False])
async def test_what_is_behind_an_urgent_byte_is_relayed(lab: Lab, ends: bool) -> None:
    """A read stops there, with more to read: also when FIN is there as well."""
    received = bytearray()
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.extend(data)
            await stream.send_all(b"!")
        ended.set()

    lb = await lab.balance("tcp", await lab.backend(serve))
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            await client.send_all(b"hello ")
            await read_exactly(client, 1)
            sock = socket.socket(fileno=os.dup(client.socket.fileno()))
            with sock:
                sock.send(b"before ")
                sock.send(b"u", socket.MSG_OOB)
                sock.send(b"behind")
                if ends:
                    sock.shutdown(socket.SHUT_WR)
                    await ended.wait()
            await lb.until(lambda: received == b"hello before behind")
