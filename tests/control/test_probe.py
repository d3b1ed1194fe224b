"""One health check against every kind of backend that is known to exist, over real sockets on loopback."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from lbproxy import __version__
from lbproxy.control.probe import Probe, host_header
from lbproxy.core.config import Address, CheckType
from lbproxy.core.health import Verdict
from tests.control.stubs import (
    FAILING_BODY,
    OK,
    PATIENT,
    Backend,
    answering,
    check,
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

BYTEWISE = [bytes([byte]) for byte in OK]
CHUNKED_FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    len(FAILING_BODY),
    FAILING_BODY,
)


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
