"""A backend that shakes hands and then vanishes, or hangs: over TLS in memory, in virtual time."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme

from lbproxy.control.probe import Probe
from lbproxy.core.config import Address, CheckType, HealthCheck
from lbproxy.core.health import Verdict

NEVER = 1e6


@pytest.fixture(scope="module")
def server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("10.0.0.1").configure_cert(context)
    return context


class Master:
    """It is there for `lives` seconds: then it neither accepts nor says anything. It answers after `takes` seconds."""

    def __init__(self, nursery: trio.Nursery, context: ssl.SSLContext, lives: float, takes: float) -> None:
        self._nursery = nursery
        self._context = context
        self._lives = lives
        self._takes = takes
        self.dialled: list[float] = []

    async def dial(self, _address: Address) -> trio.abc.Stream:
        self.dialled.append(trio.current_time())
        if trio.current_time() >= self._lives:
            await trio.sleep_forever()
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far)
        return near

    async def _serve(self, stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        if await tls.receive_some(1000):
            await trio.sleep(self._takes)
            await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


VANISHED = "no answer to GET /readyz in 1s; then: no answer to TCP connect in 1s"


@pytest.mark.parametrize(
    ("lives", "takes", "verdict", "reason", "took"),
    [
        (NEVER, 0.5, Verdict.UP, "GET /readyz answered 200", 0.5),
        (NEVER, 4.5, Verdict.UP, "GET /readyz answered 200", 4.5),
        (NEVER, NEVER, Verdict.NOT_READY, "GET /readyz: no answer in 5s", 5.0),
        (0.5, NEVER, Verdict.DOWN, VANISHED, 2.0),
        (0.5, 1.5, Verdict.UP, "GET /readyz answered 200", 1.5),
    ],
)
async def test_a_check_that_is_under_way(
    autojump_clock: trio.testing.MockClock,
    server: ssl.SSLContext,
    lives: float,
    takes: float,
    verdict: Verdict,
    reason: str,
    took: float,
) -> None:
    async with trio.open_nursery() as nursery:
        master = Master(nursery, server, lives, takes)
        check = HealthCheck(type=CheckType.HTTPS)
        result = await Probe(check, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=master.dial).run()
        nursery.cancel_scope.cancel()
    assert (result.verdict, result.reason) == (verdict, reason)
    assert result.times.answer == pytest.approx(took)
    assert master.dialled == [0.0, 1.0][: 1 if took < 1 else 2]
