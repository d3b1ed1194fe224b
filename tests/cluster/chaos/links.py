"""`python -m tests.cluster.chaos.links`: each master's own way to etcd, which can be made a long one.

A relay that keeps every piece that comes from etcd for as long as it is told, in order. A master behind a long way is
slow in everything that needs etcd and quick in everything else: it accepts, shakes hands and serves what it has cached.
A process of its own, so that the harness, which reads logs all the time, does not stand in the masters' way.

Arguments: ADDRESS (where etcd is) and an ADDRESS for each master. Each line of standard input says how long one way is:
the number of a master and seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import inf

import trio


async def main(etcd: str, addresses: Sequence[str]) -> None:
    delays = [0.0] * len(addresses)
    async with trio.open_nursery() as nursery:
        for number, address in enumerate(addresses):
            host, port = _parse(address)
            way = partial(_link, etcd=etcd, delays=delays, number=number)
            await nursery.start(partial(trio.serve_tcp, way, port, host=host))
        async for line in trio.wrap_file(sys.stdin):
            number, seconds = line.split()
            delays[int(number)] = float(seconds)
        nursery.cancel_scope.cancel()


async def _link(client: trio.SocketStream, *, etcd: str, delays: list[float], number: int) -> None:
    """One connection of a master. It ends when either side does, as one without a relay would.

    What is under way is not bounded: etcd's answers of a few seconds are a few kilobytes.
    """
    with suppress(OSError, trio.BrokenResourceError):
        async with client, await trio.open_tcp_stream(*_parse(etcd)) as server, trio.open_nursery() as nursery:
            nursery.start_soon(_forward, client, server, nursery.cancel_scope)
            late, due = trio.open_memory_channel[tuple[float, bytes | bytearray]](inf)
            nursery.start_soon(_deliver, due, client, nursery.cancel_scope)
            with suppress(OSError, trio.BrokenResourceError):
                async for piece in server:
                    late.send_nowait((trio.current_time() + delays[number], piece))
            late.close()


async def _forward(source: trio.SocketStream, target: trio.SocketStream, over: trio.CancelScope) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        async for piece in source:
            await target.send_all(piece)
    over.cancel()


async def _deliver(
    due: trio.MemoryReceiveChannel[tuple[float, bytes | bytearray]], target: trio.SocketStream, over: trio.CancelScope
) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        async for when, piece in due:
            await trio.sleep_until(when)
            await target.send_all(piece)
    over.cancel()


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2:])
