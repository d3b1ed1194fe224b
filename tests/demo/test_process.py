"""The apiserver as a process: its first line, its signals, its TLS, and three of them on one store."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from lbproxy.demo import life
from lbproxy.demo.process import Child
from lbproxy.demo.replica import replica, serve_store
from lbproxy.demo.store import Refused, Store, WriteRefusedError
from tests.demo.client import Address, Client, ask, connected
from tests.demo.test_store import do, make, state

MAPS = "/api/v1/namespaces/default/configmaps"


@asynccontextmanager
async def apiserver(*flags: str) -> AsyncIterator[tuple[Child, Address]]:
    command = [sys.executable, "-m", "lbproxy.demo.apiserver", *flags]
    child = Child(command, stop_signal=signal.SIGKILL, stdout=subprocess.PIPE)
    try:
        with trio.fail_after(20):
            said = json.loads(await child.next_line() or "null")
        assert said["pid"] == child.pid
        host, _, port = said["address"].partition(":")
        yield child, (host, int(port))
    finally:
        await child.stop()


async def test_it_serves_and_sigterm_ends_it() -> None:
    async with apiserver("--name", "solo") as (child, address):
        answer = await ask(address, "GET", "/api/v1/namespaces")
        assert answer.headers["x-demo-apiserver"] == "solo"
        assert len(answer.json["items"]) == 4
        os.kill(child.pid, signal.SIGTERM)
        with trio.fail_after(10):
            assert await child.wait() == 0


async def test_a_second_sigterm_does_not_wait() -> None:
    async with apiserver("--shutdown-delay", "600") as (child, address):
        os.kill(child.pid, signal.SIGTERM)
        with trio.fail_after(10):
            while (await ask(address, "GET", "/readyz")).code != 500:
                await trio.sleep(0.01)
            os.kill(child.pid, signal.SIGTERM)
            assert await child.wait() == 0


async def test_a_taken_port_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "lbproxy.demo.apiserver", "--bind", f"127.0.0.1:{port}"]
        with trio.fail_after(20):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"in use" in done.stderr


async def test_three_processes_share_one_store_and_a_watch_moves_between_them(tmp_path: Path) -> None:
    """Create through one, watch at another, kill -9 that one, resume at the third: no gap, no double."""
    store, path = Store(), str(tmp_path / "store")
    life.furnish(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_store, store, path)
        async with (
            apiserver("--store", path, "--name", "a") as (_, first),
            apiserver("--store", path, "--name", "b") as (victim, second),
            apiserver("--store", path, "--name", "c") as (_, third),
        ):
            start = (await ask(third, "GET", MAPS)).json["metadata"]["resourceVersion"]
            seen: list[Any] = []
            async with connected(second) as client:
                await client.open_watch(f"{MAPS}?watch=1&resourceVersion={start}")
                for name in "xyz":
                    created = await ask(first, "POST", MAPS, {"metadata": {"name": name}})
                    assert created.code == 201
                    # A write is answered only when this server has it: no read-your-write gap.
                    assert (await ask(first, "GET", f"{MAPS}/{name}")).json == created.json
                seen += await client.events(2)
                os.kill(victim.pid, signal.SIGKILL)
                last = seen[-1]["object"]["metadata"]["resourceVersion"]
            async with connected(third) as client:
                await client.open_watch(f"{MAPS}?watch=1&resourceVersion={last}")
                await ask(first, "DELETE", f"{MAPS}/x")
                seen += await client.events(2)
            shown = [(event["type"], event["object"]["metadata"]["name"]) for event in seen]
            assert shown == [("ADDED", "x"), ("ADDED", "y"), ("ADDED", "z"), ("DELETED", "x")]
        nursery.cancel_scope.cancel()


async def test_the_optimistic_lock_holds_across_processes(tmp_path: Path) -> None:
    """Twenty increments by read and PUT, half of them through each server: none is lost."""
    store, path = Store(), str(tmp_path / "store")

    async def increment(client: Client) -> None:
        while True:
            body = (await client.ask("GET", f"{MAPS}/n")).json
            body["data"]["n"] = str(int(body["data"]["n"]) + 1)
            answer = await client.ask("PUT", f"{MAPS}/n", body)
            if answer.code == 200:
                return
            assert answer.json["reason"] == "Conflict"

    async def ten_times(address: Address) -> None:
        async with connected(address) as client:
            for _ in range(10):
                await increment(client)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_store, store, path)
        async with apiserver("--store", path) as (_, first), apiserver("--store", path) as (_, second):
            await ask(first, "POST", MAPS, {"metadata": {"name": "n"}, "data": {"n": "0"}})
            with trio.fail_after(20):
                async with trio.open_nursery() as clients:
                    clients.start_soon(ten_times, first)
                    clients.start_soon(ten_times, second)
            assert (await ask(second, "GET", f"{MAPS}/n")).json["data"]["n"] == "20"
        nursery.cancel_scope.cancel()


async def test_an_apiserver_does_not_outlive_its_store(tmp_path: Path) -> None:
    path, storing = str(tmp_path / "store"), trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with storing:
            await serve_store(Store(), path, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        async with apiserver("--store", path) as (child, _):
            storing.cancel()
            with trio.fail_after(10):
                assert await child.wait() == 1


async def test_a_replica_has_the_history_and_passes_refusals_on(tmp_path: Path) -> None:
    store, path = Store(history=5), str(tmp_path / "store")
    for number in range(8):
        do(store, make(f"pod-{number}"))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_store, store, path)
        async with replica(path, gone=lambda: None) as follower:
            event = await follower.commit(make("late"))
            assert (event.revision, follower.store.revision) == (10, 10)
            assert state(follower.store) == state(store)
            assert follower.store.since("pods", 5) == store.since("pods", 5)
            with pytest.raises(WriteRefusedError) as caught:
                await follower.commit(make("late"))
            assert caught.value.why is Refused.EXISTS
        nursery.cancel_scope.cancel()


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("me@example.org")
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    server.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert"))
    flags = ["--cert", str(tmp_path / "cert"), "--key", str(tmp_path / "cert"), "--client-ca", str(tmp_path / "ca")]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with apiserver(*flags) as (_, address):
        with trio.fail_after(10):
            with pytest.raises(trio.BrokenResourceError):
                await over_tls(address, context, b"x")
            client.configure_cert(context)
            assert b"readyz check passed" in await over_tls(address, context, b"/readyz?verbose")
            answer = await over_tls(address, context, b"/bytes?size=3000000")
            assert len(answer.partition(b"\r\n\r\n")[2]) == 3_000_000


async def over_tls(address: Address, context: ssl.SSLContext, target: bytes) -> bytes:
    stream = trio.SSLStream(await trio.open_tcp_stream(*address), context, server_hostname=address[0])
    async with stream:
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        return b"".join([bytes(data) async for data in stream])
