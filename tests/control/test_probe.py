"""One health check against every kind of backend that is known to exist, over real sockets on loopback."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from lbproxy import __version__
from lbproxy.control.probe import Probe, host_header
from lbproxy.core.config import Address, CheckType, HealthCheck
from lbproxy.core.health import CheckResult, Verdict
from tests.control.stubs import (
    FAILING_BODY,
    alerting,
    answering,
    blurting,
    deaf,
    endless,
    half_close,
    http_answer,
    refusing,
    reset,
    reset_after_request,
    serving,
    wait_closed,
)

Backend = AbstractAsyncContextManager[Address]

# Budgets that no passing stage comes near; a test that waits for one to run out shortens that one.
PATIENT = HealthCheck(type=CheckType.HTTP, connect_timeout=10.0, timeout=10.0)
OK = http_answer(200)
BYTEWISE = [bytes([byte]) for byte in OK]
CHUNKED_FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    len(FAILING_BODY),
    FAILING_BODY,
)


async def check(address: Address, config: HealthCheck) -> CheckResult:
    with trio.fail_after(30):
        return await Probe(config, address).run()


HTTP_MATRIX: list[tuple[str, Callable[[], Backend], dict[str, Any], Verdict, str]] = [
    ("refused", refusing, {}, Verdict.DOWN, "connection refused"),
    ("dropped SYN", deaf, {"connect_timeout": 0.2}, Verdict.DOWN, "no answer to TCP connect in 200ms"),
    ("ok", partial(serving, answering(OK)), {}, Verdict.UP, "GET /readyz answered 200"),
    ("ok, then silence", partial(serving, answering(OK, hold=True)), {}, Verdict.UP, "GET /readyz answered 200"),
    ("1 byte pieces", partial(serving, answering(*BYTEWISE)), {}, Verdict.UP, "GET /readyz answered 200"),
    (
        "1xx first",
        partial(serving, answering(b"HTTP/1.1 102 Processing\r\n\r\n" * 3, OK)),
        {},
        Verdict.UP,
        "GET /readyz answered 200",
    ),
    ("HTTP/1.0", partial(serving, answering(b"HTTP/1.0 200 OK\r\n\r\nok")), {}, Verdict.UP, "GET /readyz answered 200"),
    (
        "ok without its body",
        partial(serving, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", hold=True)),
        {},
        Verdict.UP,
        "GET /readyz answered 200",
    ),
    (
        "another path",
        partial(serving, answering(OK)),
        {"path": "/livez?a=b"},
        Verdict.UP,
        "GET /livez?a=b answered 200",
    ),
    (
        "another status expected",
        partial(serving, answering(http_answer(404))),
        {"expect": (200, 404)},
        Verdict.UP,
        "GET /readyz answered 404",
    ),
    (
        "never answers",
        partial(serving, wait_closed),
        {"timeout": 0.2},
        Verdict.NOT_READY,
        "GET /readyz: no answer in 200ms",
    ),
    (
        "half an answer",
        partial(serving, answering(b"HTTP/1.1 200", hold=True)),
        {"timeout": 0.2},
        Verdict.NOT_READY,
        "GET /readyz: no answer in 200ms",
    ),
    (
        "500 with reasons",
        partial(serving, answering(http_answer(500, FAILING_BODY))),
        {},
        Verdict.NOT_READY,
        "GET /readyz answered 500: [-]etcd failed, [-]shutdown failed",
    ),
    (
        "500 with reasons, chunked",
        partial(serving, answering(CHUNKED_FAILURE)),
        {},
        Verdict.NOT_READY,
        "GET /readyz answered 500: [-]etcd failed, [-]shutdown failed",
    ),
    (
        "500, the body stalls",
        partial(serving, answering(CHUNKED_FAILURE[:120], hold=True)),
        {"timeout": 0.2},
        Verdict.NOT_READY,
        "GET /readyz answered 500: [-]etcd failed",
    ),
    (
        "500, the body is cut",
        partial(serving, answering(CHUNKED_FAILURE[:120])),
        {},
        Verdict.NOT_READY,
        "GET /readyz answered 500: [-]etcd failed",
    ),
    (
        "500, the body never ends",
        partial(serving, endless(b"HTTP/1.1 500 No\r\n\r\n", b"[-]etcd failed: reason withheld\n" * 100)),
        {},
        Verdict.NOT_READY,
        "GET /readyz answered 500: [-]etcd failed",
    ),
    (
        "the head never ends",
        partial(serving, endless(b"HTTP/1.1 200 OK\r\n", b"X-Padding: " + b"x" * 1000 + b"\r\n")),
        {},
        Verdict.NOT_READY,
        "GET /readyz: the answer is not HTTP: Receive buffer too long",
    ),
    (
        "1xx for ever",
        partial(serving, endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n")),
        {"timeout": 0.2},
        Verdict.NOT_READY,
        "GET /readyz: no answer in 200ms",
    ),
    (
        "garbage",
        partial(serving, answering(b"\x00\x01\x02 nonsense\r\n\r\n")),
        {},
        Verdict.NOT_READY,
        "GET /readyz: the answer is not HTTP: .*",
    ),
    (
        "no keyword of HTTP",
        partial(serving, answering(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
        {},
        Verdict.NOT_READY,
        "GET /readyz: the answer is not HTTP: .*",
    ),
    (
        "closes",
        partial(serving, answering()),
        {},
        Verdict.NOT_READY,
        "GET /readyz: connection closed before the answer",
    ),
    (
        "half-closes",
        partial(serving, half_close),
        {},
        Verdict.NOT_READY,
        "GET /readyz: connection closed before the answer",
    ),
    (
        "resets after the request",
        partial(serving, reset_after_request),
        {},
        Verdict.NOT_READY,
        "GET /readyz: connection reset before the answer",
    ),
    (
        "wants TLS",
        partial(serving, answering(http_answer(400, b"Client sent an HTTP request to an HTTPS server.\n"))),
        {},
        Verdict.NOT_READY,
        "GET /readyz answered 400: Client sent an HTTP request to an HTTPS server.",
    ),
    ("401", partial(serving, answering(http_answer(401))), {}, Verdict.UP, "GET /readyz answered 401 Unauthorized"),
    ("403", partial(serving, answering(http_answer(403))), {}, Verdict.UP, "GET /readyz answered 403 Forbidden"),
]


@pytest.mark.parametrize(
    ("backend", "changes", "verdict", "reason"), [row[1:] for row in HTTP_MATRIX], ids=[row[0] for row in HTTP_MATRIX]
)
async def test_http(backend: Callable[[], Backend], changes: dict[str, Any], verdict: Verdict, reason: str) -> None:
    async with backend() as address:
        result = await check(address, replace(PATIENT, **changes))
    assert result.verdict is verdict
    assert result.reason == reason or re.fullmatch(reason, result.reason)


async def test_reset_right_after_accept() -> None:
    """The reset may meet the connect, the request or the wait for the answer, as the race goes; never an `up`."""
    async with serving(reset) as address:
        result = await check(address, PATIENT)
    assert result.verdict in (Verdict.NOT_READY, Verdict.DOWN)
    assert "reset" in result.reason


async def test_the_request() -> None:
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests)) as address:
        await check(address, PATIENT)
    assert requests[0].split(b"\r\n") == [
        b"GET /readyz HTTP/1.1",
        b"Host: 127.0.0.1:%d" % address.port,
        b"User-Agent: lbproxy/" + __version__.encode(),
        b"Accept: */*",
        b"Connection: close",
        b"",
        b"",
    ]


async def test_every_check_is_a_new_connection() -> None:
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests, hold=True)) as address:
        probe = Probe(PATIENT, address)
        with trio.fail_after(30):
            results = [await probe.run() for _ in range(3)]
    assert [result.verdict for result in results] == [Verdict.UP] * 3
    assert len(requests) == 3


async def test_tcp_only_connects() -> None:
    config = replace(PATIENT, type=CheckType.TCP)
    async with serving(wait_closed) as address:
        result = await check(address, config)
    assert (result.verdict, result.reason) == (Verdict.UP, "TCP connect succeeded")
    assert result.times.connect is not None
    assert result.times.answer is None
    async with refusing() as address:
        assert (await check(address, config)).verdict is Verdict.DOWN


async def test_port_of_its_own() -> None:
    async with serving(answering(OK)) as address, refusing() as elsewhere:
        result = await check(elsewhere, replace(PATIENT, port=address.port))
    assert result.verdict is Verdict.UP


async def test_ipv6() -> None:
    requests: list[bytes] = []
    try:
        async with serving(answering(OK, requests=requests), host="::1") as address:
            result = await check(address, PATIENT)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert result.verdict is Verdict.UP
    assert b"\r\nHost: [::1]:%d\r\n" % address.port in requests[0]


async def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    address = Address(f"unix:{path}", path, 0, "unix")
    missing = await check(address, PATIENT)
    assert (missing.verdict, missing.reason) == (Verdict.DOWN, "no such socket")
    requests: list[bytes] = []
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(path)
        refused = await check(address, PATIENT)
        listener.listen(1)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                connection, _ = await listener.accept()
                async with aclosing(trio.SocketStream(connection)) as stream:
                    await answering(OK, requests=requests)(stream)

            nursery.start_soon(serve)
            result = await check(address, replace(PATIENT, port=1234))
    assert (refused.verdict, refused.reason) == (Verdict.DOWN, "connection refused")
    assert result.verdict is Verdict.UP
    assert b"\r\nHost: localhost\r\n" in requests[0]


@pytest.mark.parametrize(
    ("name", "port", "kind", "expected"),
    [
        ("10.0.0.1", 6443, CheckType.HTTPS, "10.0.0.1:6443"),
        ("10.0.0.1", 443, CheckType.HTTPS, "10.0.0.1"),
        ("10.0.0.1", 443, CheckType.HTTP, "10.0.0.1:443"),
        ("10.0.0.1", 80, CheckType.HTTP, "10.0.0.1"),
        ("fd00::1", 6443, CheckType.HTTPS, "[fd00::1]:6443"),
        ("kubernetes.default", 6443, CheckType.HTTPS, "kubernetes.default:6443"),
        ("localhost", 0, CheckType.HTTP, "localhost"),
    ],
)
def test_host_header(name: str, port: int, kind: CheckType, expected: str) -> None:
    assert host_header(name, port, kind) == expected


async def test_no_check_can_be_made_of_type_none() -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        Probe(replace(PATIENT, type=CheckType.NONE), Address("127.0.0.1:1", "127.0.0.1", 1))


# -- tokens ----------------------------------------------------------------------------------------------------


async def test_the_token_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests)) as address:
        probe = Probe(replace(PATIENT, token_file=str(file)), address)
        for content in ("first.token\n", "second.token"):
            file.write_text(content)
            with trio.fail_after(30):
                assert (await probe.run()).advice == ""
    assert b"\r\nAuthorization: Bearer first.token\r\n" in requests[0]
    assert b"\r\nAuthorization: Bearer second.token\r\n" in requests[1]


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "health_check.token_file cannot be read, so the check was made without a token: "),
        (b"\xff\xfe", "health_check.token_file cannot be read, so the check was made without a token: "),
        (b"", "health_check.token_file holds no token, so the check was made without one: "),
        (b"two\nlines", "health_check.token_file holds no token, so the check was made without one: "),
        (b"two words", "health_check.token_file holds no token, so the check was made without one: "),
    ],
)
async def test_a_bad_token_file_is_told_and_the_check_made(tmp_path: Path, content: bytes | None, advice: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    requests: list[bytes] = []
    async with serving(answering(http_answer(401), requests=requests)) as address:
        result = await check(address, replace(PATIENT, token_file=str(file)))
    assert result.verdict is Verdict.UP
    assert result.advice.startswith(advice)
    assert b"Authorization" not in requests[0]


# -- TLS -------------------------------------------------------------------------------------------------------

HTTPS = replace(PATIENT, type=CheckType.HTTPS)


class Pki:
    """A cluster's CA, a stranger's, and the files and contexts made of them."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.written = 0
        self.ca_file = self.pem("ca.pem", self.ca.cert_pem.bytes())
        self.other_ca_file = self.pem("other.pem", trustme.CA().cert_pem.bytes())

    def pem(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        # Every write gets a time of its own; the kernel's clock for files has ticks of up to 10 ms.
        self.written += 1
        os.utime(path, (self.written, self.written))
        return str(path)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        return context

    def demanding(self, newest: ssl.TLSVersion) -> ssl.SSLContext:
        context = self.server("127.0.0.1")
        context.maximum_version = newest
        context.verify_mode = ssl.CERT_REQUIRED
        self.ca.configure_trust(context)
        return context

    def client(self, name: str = "client.pem") -> str:
        return self.pem(name, self.ca.issue_cert("lbproxy@example").private_key_and_cert_chain_pem.bytes())


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


async def test_verified_by_address(pki: Pki) -> None:
    async with serving(answering(OK), pki.server("127.0.0.1")) as address:
        result = await check(address, replace(HTTPS, ca_file=pki.ca_file))
    assert result.verdict is Verdict.UP
    assert result.times.connect is not None
    assert result.times.tls is not None
    assert result.times.answer is not None


async def test_verified_by_server_name(pki: Pki) -> None:
    requests: list[bytes] = []
    shown: list[str | None] = []
    context = pki.server("kubernetes.default")
    context.sni_callback = lambda _socket, name, _context: shown.append(name)
    async with serving(answering(OK, requests=requests), context) as address:
        result = await check(address, replace(HTTPS, ca_file=pki.ca_file, server_name="kubernetes.default"))
    assert result.verdict is Verdict.UP
    assert shown == ["kubernetes.default"]
    assert b"\r\nHost: kubernetes.default:%d\r\n" % address.port in requests[0]


@pytest.mark.parametrize(
    ("ca", "names", "changes", "verdict", "words"),
    [
        ("other", ("127.0.0.1",), {}, Verdict.NOT_READY, "certificate verify failed: unable to get local issuer"),
        (None, ("127.0.0.1",), {"verify": True}, Verdict.NOT_READY, "certificate verify failed: "),
        ("own", ("10.9.8.7",), {}, Verdict.NOT_READY, "certificate verify failed: IP address mismatch"),
        ("own", ("other.example",), {"server_name": "a.example"}, Verdict.NOT_READY, "Hostname mismatch"),
        # verify is three-valued: unset, it follows ca_file.
        (None, ("10.9.8.7",), {}, Verdict.UP, "answered 200"),
        ("other", ("10.9.8.7",), {"verify": False}, Verdict.UP, "answered 200"),
        ("own", ("127.0.0.1",), {"verify": True}, Verdict.UP, "answered 200"),
    ],
)
async def test_verification(
    pki: Pki, ca: str | None, names: tuple[str, ...], changes: dict[str, Any], verdict: Verdict, words: str
) -> None:
    """A certificate that is refused took a living backend to show, so it is no proof of death."""
    ca_file = {None: None, "own": pki.ca_file, "other": pki.other_ca_file}[ca]
    async with serving(answering(OK), pki.server(*names)) as address:
        result = await check(address, replace(HTTPS, ca_file=ca_file, **changes))
    assert result.verdict is verdict
    assert words in result.reason


@pytest.mark.parametrize("tls13", [False, True])
async def test_client_certificate(pki: Pki, tls13: bool) -> None:
    newest = ssl.TLSVersion.TLSv1_3 if tls13 else ssl.TLSVersion.TLSv1_2
    async with serving(answering(OK), pki.demanding(newest)) as address:
        given = await check(address, replace(HTTPS, ca_file=pki.ca_file, client_cert=pki.client()))
    assert given.verdict is Verdict.UP
    async with alerting(pki.demanding(newest)) as address:
        missing = await check(address, replace(HTTPS, ca_file=pki.ca_file))
    assert missing.verdict is Verdict.NOT_READY
    words = "demands a client certificate; set health_check.client_cert" if tls13 else "alert handshake failure"
    assert missing.reason.startswith("TLS handshake: ")
    assert words in missing.reason


ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal, handshake_failure

TLS_MATRIX: list[tuple[str, Callable[[], Backend], dict[str, Any], Verdict, str]] = [
    ("refused", refusing, {}, Verdict.DOWN, "connection refused"),
    (
        "accepts and never answers",
        partial(serving, wait_closed),
        {"connect_timeout": 0.25},
        Verdict.DOWN,
        "TLS handshake: not complete in 500ms",
    ),
    ("closes", partial(serving, blurting()), {}, Verdict.DOWN, "TLS handshake: the backend closed the connection"),
    ("half-closes", partial(serving, half_close), {}, Verdict.DOWN, "TLS handshake: the backend closed the connection"),
    (
        "resets",
        partial(serving, reset),
        {},
        Verdict.DOWN,
        "(TLS handshake: )?(connection reset by the backend|the backend closed the connection)",
    ),
    (
        "alert",
        partial(serving, blurting(ALERT)),
        {},
        Verdict.NOT_READY,
        "TLS handshake: .*alert handshake failure",
    ),
    (
        "plain HTTP",
        partial(serving, blurting(http_answer(400))),
        {},
        Verdict.DOWN,
        re.escape("TLS handshake: the backend does not speak TLS (is it health_check.type: http?)"),
    ),
]


@pytest.mark.parametrize(
    ("backend", "changes", "verdict", "reason"), [row[1:] for row in TLS_MATRIX], ids=[row[0] for row in TLS_MATRIX]
)
async def test_no_tls(backend: Callable[[], Backend], changes: dict[str, Any], verdict: Verdict, reason: str) -> None:
    async with backend() as address:
        result = await check(address, replace(HTTPS, **changes))
    assert result.verdict is verdict
    assert re.fullmatch(reason, result.reason)


async def test_tls_and_then_silence_is_not_ready(pki: Pki) -> None:
    async with serving(wait_closed, pki.server("127.0.0.1")) as address:
        result = await check(address, replace(HTTPS, timeout=0.2))
    assert (result.verdict, result.reason) == (Verdict.NOT_READY, "GET /readyz: no answer in 200ms")


async def test_tls_and_a_close_without_good_bye(pki: Pki) -> None:
    async with serving(answering(), pki.server("127.0.0.1")) as address:
        result = await check(address, HTTPS)
    assert (result.verdict, result.reason) == (Verdict.NOT_READY, "GET /readyz: connection closed before the answer")


async def test_files_that_cannot_be_used_say_nothing_of_the_backend(pki: Pki) -> None:
    async with serving(answering(OK), pki.server("127.0.0.1")) as address:
        missing = await check(address, replace(HTTPS, ca_file=str(pki.folder / "missing.pem")))
        broken = await check(address, replace(HTTPS, client_cert=pki.pem("broken.pem", b"no PEM")))
    assert missing.verdict is Verdict.NONE
    assert "health_check.ca_file" in missing.reason
    assert "missing.pem" in missing.reason
    assert broken.verdict is Verdict.NONE
    assert "health_check.client_cert" in broken.reason


async def test_renewed_files_are_used_and_half_renewed_ones_told(pki: Pki) -> None:
    other, own = pki.read("other.pem"), pki.read("ca.pem")
    results = []
    async with serving(answering(OK), pki.server("127.0.0.1")) as address:
        probe = Probe(replace(HTTPS, ca_file=pki.pem("renewed.pem", other)), address)
        for content in (other, own, b"half of", own):
            pki.pem("renewed.pem", content)
            with trio.fail_after(30):
                results.append(await probe.run())
    stranger, renewed, half, whole = results
    assert [stranger.verdict, renewed.verdict] == [Verdict.NOT_READY, Verdict.UP]
    assert half.verdict is Verdict.UP
    assert half.advice.startswith("cannot load health_check.ca_file")
    assert half.advice.endswith("the former ones stay in use")
    assert (whole.verdict, whole.advice) == (Verdict.UP, "")


# -- budgets, to the tick, over streams in memory -----------------------------------------------------------------


def probe_of(config: HealthCheck, stream: trio.abc.Stream) -> Probe:
    async def dial(_address: Address) -> trio.abc.Stream:
        return stream

    return Probe(config, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial)


async def test_budget_of_the_connect(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    probe = Probe(HealthCheck(type=CheckType.HTTPS), Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial)
    result = await probe.run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, "no answer to TCP connect in 1s")
    assert (result.times.connect, result.times.tls, result.times.answer) == (1.0, None, None)


async def test_budget_of_the_handshake_is_twice_that(autojump_clock: trio.testing.MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    result = await probe_of(HealthCheck(type=CheckType.HTTPS), near).run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, "TLS handshake: not complete in 2s")
    assert (result.times.connect, result.times.tls, result.times.answer) == (0.0, 2.0, None)


async def test_budget_of_the_answer_is_for_all_of_it(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()

    async def drip() -> None:
        await far.send_all(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n[-]etcd failed\n")
        for _ in range(100):
            await trio.sleep(0.9)
            await far.send_all(b".")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        result = await probe_of(HealthCheck(type=CheckType.HTTP), near).run()
        nursery.cancel_scope.cancel()
    assert (result.verdict, result.reason) == (Verdict.NOT_READY, "GET /readyz answered 500: [-]etcd failed")
    assert result.times.answer == 5.0


async def test_cancelling_a_check_closes_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    with trio.move_on_after(1):
        await probe_of(HealthCheck(type=CheckType.HTTP), near).run()
    await far.receive_some()
    assert await far.receive_some() == b""


async def test_trouble_of_our_own_says_nothing_of_the_backend() -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        raise OSError(24, "Too many open files")

    result = await Probe(PATIENT, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial).run()
    assert (result.verdict, result.reason) == (Verdict.NONE, "the check cannot be made: too many open files")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (111, "connection refused"),
        (113, "no route to host"),
        (101, "network is unreachable"),
        (13, "permission denied"),
    ],
)
async def test_words_of_the_system(number: int, words: str) -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        raise OSError(number, "x")

    result = await Probe(PATIENT, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial).run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, words)
