"""One health check of one backend: connect, TLS, GET, and a verdict.

Each check is a new connection, as a client's would be: a kept one says nothing about whether the backend accepts.
The three stages have budgets of their own, because they mean different things. A kernel answers a TCP connect in a
round trip or the host is gone; a TLS handshake needs the process; /readyz may honestly take seconds, since its etcd
checks run one after another with 2 s each.

Without TLS nothing tells a process that hangs from one that is slow: the kernel accepts for both. So an apiserver
that has not begun to answer in `connect_timeout` is asked for /livez/ping on a second connection, which costs it
nothing and waits for nobody. One that answers neither in as much time again hangs.

With TLS it is the handshake that shows a process; but what shook hands may be gone a moment later, and a check that is
under way then would wait for its whole timeout. So after the same time without an answer another connection is made,
as far as TLS: where that fails, the backend is down.

An expected status decides at once. For any other, up to 16 KiB of the body are read: it names what failed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import h11
import trio

from lbproxy import __version__
from lbproxy.control.check_tls import CheckTls
from lbproxy.control.check_words import LOCAL_ERRORS, os_words, refused_in_tls, seconds, ssl_words
from lbproxy.core.certificate import CertificateError, expiry
from lbproxy.core.config import Address, CheckType, HealthCheck
from lbproxy.core.health import MAX_BODY, CheckResult, CheckTimes, Verdict, judge_answer

PING = "/livez/ping"
_READ = 8192  # bytes asked for at a time
_APISERVER_PATHS = ("/readyz", "/livez", "/healthz")  # who is asked for these knows /livez/ping, or answers 404
_DEFAULT_PORTS = {CheckType.HTTP: 80, CheckType.HTTPS: 443}

Dial = Callable[[Address], Awaitable[trio.abc.Stream]]


class CheckEndedError(Exception):
    """A check has come to its end early."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.result = CheckResult(verdict, reason)


async def dial(address: Address) -> trio.abc.Stream:
    """Connect a socket. Raises OSError."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}[address.family]
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address.host if address.family == "unix" else (address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class Probe:
    """Checks one backend whenever `run` is called. Holds nothing but what can be prepared."""

    def __init__(self, check: HealthCheck, address: Address, *, dial: Dial = dial) -> None:
        if check.type not in (CheckType.HTTPS, CheckType.HTTP, CheckType.TCP):
            raise ValueError(f"a health check of type {check.type} cannot be made")
        self._check = check
        if check.port is not None and address.family != "unix":
            address = replace(address, port=check.port)
        self._address = address
        self._dial = dial
        self._tls = CheckTls(check)
        # The zone of a link-local address means something on this host only.
        numeric = "localhost" if address.family == "unix" else address.host.partition("%")[0]
        self._name = check.server_name or numeric
        self._host = host_header(self._name, address.port, check.type)

    async def run(self, alive: trio.Event | None = None) -> CheckResult:
        """Make one check. Raises nothing but what cancels it: whatever goes wrong is in the result.

        `alive` is set as soon as somebody has shown up: TLS stands, or the first byte of an answer is here.
        """
        watch = _Stopwatch()
        try:
            result = await self._check_once(watch, trio.Event() if alive is None else alive)
        except CheckEndedError as failed:
            result = failed.result
        return replace(
            result,
            times=watch.times(),
            advice=result.advice or self._tls.problem,
            certificate_expires=watch.certificate_expires,
        )

    async def _check_once(self, watch: _Stopwatch, alive: trio.Event) -> CheckResult:
        context = self._context() if self._check.type is CheckType.HTTPS else None
        async with self._connected(watch) as stream:
            if self._check.type is CheckType.TCP:
                return CheckResult(Verdict.UP, "TCP connect succeeded")
            if context is not None:
                stream = await self._handshake(stream, context, watch)
                alive.set()
            return await self._ask(stream, context, watch, alive)

    def _context(self) -> ssl.SSLContext:
        try:
            return self._tls.context()
        except OSError as error:
            raise CheckEndedError(Verdict.NONE, f"the check cannot be made: {error}") from None

    @asynccontextmanager
    async def _connected(self, watch: _Stopwatch) -> AsyncIterator[trio.abc.Stream]:
        budget = self._check.connect_timeout
        stream = None
        try:
            with watch.stage("connect"), trio.move_on_after(budget):
                stream = await self._dial(self._address)
        except OSError as error:
            if error.errno in LOCAL_ERRORS:
                raise CheckEndedError(Verdict.NONE, f"the check cannot be made: {os_words(error)}") from None
            raise CheckEndedError(Verdict.DOWN, os_words(error)) from None
        if stream is None:
            raise CheckEndedError(Verdict.DOWN, f"no answer to TCP connect in {seconds(budget)}")
        try:
            yield stream
        finally:
            # Without TLS's own good-bye: the answer is complete, and a peer that hangs is not waited for.
            await trio.aclose_forcefully(stream)

    async def _handshake(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, watch: _Stopwatch
    ) -> trio.SSLStream[trio.abc.Stream]:
        budget = 2 * self._check.connect_timeout
        try:
            tls = trio.SSLStream(stream, context, server_hostname=self._name, https_compatible=True)
        except ValueError as error:  # a label of 64 characters, say
            raise CheckEndedError(
                Verdict.NONE, f"the check cannot be made: health_check.server_name: {error}"
            ) from None
        try:
            with watch.stage("tls"), trio.move_on_after(budget) as scope:
                await tls.do_handshake()
        except trio.BrokenResourceError as error:
            raise _tls_failure(error.__cause__) from None
        if scope.cancelled_caught:
            raise CheckEndedError(Verdict.DOWN, f"TLS handshake: not complete in {seconds(budget)}")
        with suppress(CertificateError):
            watch.certificate_expires = expiry(tls.getpeercert(binary_form=True))
        return tls

    async def _ask(
        self, stream: trio.abc.Stream, context: ssl.SSLContext | None, watch: _Stopwatch, alive: trio.Event
    ) -> CheckResult:
        answer = _Answer(stream, alive)
        request, notice = self._request()
        broken: CheckEndedError | None = None
        async with trio.open_nursery() as nursery:
            if context is not None:
                nursery.start_soon(self._knock, context, answer, nursery.cancel_scope)
            elif self._check.path.startswith(_APISERVER_PATHS):
                nursery.start_soon(self._ping, alive, answer, nursery.cancel_scope)
            try:
                await self._converse(answer, request, watch)
            except CheckEndedError as error:
                broken = error
            nursery.cancel_scope.cancel()
        if broken is not None:
            raise broken
        if answer.hangs:
            raise CheckEndedError(Verdict.DOWN, answer.broken)
        if answer.status is None:
            raise CheckEndedError(Verdict.NOT_READY, f"GET {self._check.path}: {self._silence(answer)}")
        result = judge_answer(self._check, answer.status, bytes(answer.body))
        return replace(result, advice=notice) if notice else result

    async def _converse(self, answer: _Answer, request: h11.Request, watch: _Stopwatch) -> None:
        """Ask, and read the answer as far as it comes in time. Raises CheckEndedError only over TLS."""
        try:
            with watch.stage("answer"), trio.move_on_after(self._check.timeout):
                await answer.ask(request, self._check.expect)
        except h11.RemoteProtocolError as error:
            answer.broken = f"the answer is not HTTP: {error}"
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise _tls_failure(error.__cause__) from None
            answer.broken = "connection reset before the answer"

    async def _knock(self, context: ssl.SSLContext, answer: _Answer, scope: trio.CancelScope) -> None:
        """Find out whether a backend that has fallen silent after its handshake is there; end the check if not."""
        budget = self._check.connect_timeout
        with trio.move_on_after(budget):
            await answer.begun.wait()
        if answer.begun.is_set():
            return
        try:
            async with self._connected(_Stopwatch()) as stream:
                await self._handshake(stream, context, _Stopwatch())
        except CheckEndedError as failed:
            if failed.result.verdict is Verdict.DOWN and not answer.begun.is_set():
                answer.hangs = True
                answer.broken = f"no answer to GET {self._check.path} in {seconds(budget)}; then: {failed}"
                scope.cancel()

    async def _ping(self, alive: trio.Event, answer: _Answer, scope: trio.CancelScope) -> None:
        """Find out whether a silent apiserver hangs, and end the check if so."""
        budget = self._check.connect_timeout
        with trio.move_on_after(budget):
            await alive.wait()
        if alive.is_set():
            return
        request = f"GET {PING} HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n\r\n"
        try:
            with trio.move_on_after(budget), suppress(trio.BrokenResourceError):
                async with await self._dial(self._address) as stream:
                    await stream.send_all(request.encode("ascii"))
                    if await stream.receive_some(1):
                        alive.set()
        except OSError as error:
            if error.errno in LOCAL_ERRORS:
                return
        if not alive.is_set():
            answer.hangs = True
            answer.broken = f"no answer to GET {self._check.path} in {seconds(2 * budget)}, nor to GET {PING}: it hangs"
            scope.cancel()

    def _silence(self, answer: _Answer) -> str:
        if answer.closed_at_once:
            return "connection closed before the answer"
        return answer.broken or f"no answer in {seconds(self._check.timeout)}"

    def _request(self) -> tuple[h11.Request, str]:
        headers = [
            ("Host", self._host),
            ("User-Agent", f"lbproxy/{__version__}"),
            ("Accept", "*/*"),
            ("Connection", "close"),
        ]
        token, problem = self._token()
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        return h11.Request(method="GET", target=self._check.path, headers=headers), problem

    def _token(self) -> tuple[str, str]:
        """The bearer token and what is wrong with it. Without one the check is still worth making."""
        path = self._check.token_file
        if path is None:
            return "", ""
        try:
            token = Path(path).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            return "", f"health_check.token_file cannot be read, so the check was made without a token: {error}"
        if not token or not token.isprintable() or " " in token:
            return "", f"health_check.token_file holds no token, so the check was made without one: {path}"
        return token, ""


def host_header(name: str, port: int, kind: CheckType) -> str:
    """The Host header's value: brackets around IPv6, and no port where the scheme implies it or there is none."""
    host = f"[{name}]" if ":" in name else name
    return host if port in (0, _DEFAULT_PORTS.get(kind)) else f"{host}:{port}"


def _tls_failure(cause: BaseException | None) -> CheckEndedError:
    if isinstance(cause, ssl.SSLError):
        verdict = Verdict.NOT_READY if refused_in_tls(cause) else Verdict.DOWN
        return CheckEndedError(verdict, f"TLS handshake: {ssl_words(cause)}")
    words = os_words(cause) if isinstance(cause, OSError) else "the backend closed the connection"
    return CheckEndedError(Verdict.DOWN, f"TLS handshake: {words}")


class _Answer:
    """An HTTP answer as far as it has come, so that a deadline or a reset loses nothing of it."""

    def __init__(self, stream: trio.abc.Stream, alive: trio.Event) -> None:
        self.status: int | None = None
        self.body = bytearray()
        self.broken = ""  # how it ended, if not well
        self.hangs = False
        self.closed_at_once = False
        self.begun = trio.Event()  # something has come, if only the end
        self._alive = alive
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_BODY)

    async def ask(self, request: h11.Request, expect: tuple[int, ...]) -> None:
        """Send the request and read until the verdict is clear.

        Raises h11.RemoteProtocolError, trio.BrokenResourceError.
        """
        await self._send(request)
        while self.status not in expect and len(self.body) < MAX_BODY:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Response):
                self.status = event.status_code
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return

    async def _send(self, request: h11.Request) -> None:
        head = self._http.send(request) or b""
        self._http.send(h11.EndOfMessage())
        await self._stream.send_all(head)

    async def _receive(self) -> None:
        data = await self._stream.receive_some(_READ)
        self.closed_at_once = not data and not self.begun.is_set()
        self.begun.set()
        if data:
            self._alive.set()
        self._http.receive_data(bytes(data))


class _Stopwatch:
    """Takes the time of each stage, also of one that fails, and notes what else is seen on the way."""

    def __init__(self) -> None:
        self._taken: dict[str, float] = {}
        self.certificate_expires: float | None = None  # the backend's

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = trio.current_time()
        try:
            yield
        finally:
            self._taken[name] = trio.current_time() - started

    def times(self) -> CheckTimes:
        return CheckTimes(**self._taken)
