"""Health checks over TLS: whom they believe, and what they say of those they do not; over real sockets on loopback."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from lbproxy.control.probe import Probe
from lbproxy.core.config import CheckType
from lbproxy.core.health import Verdict
from tests.control.stubs import (
    OK,
    PATIENT,
    Backend,
    alerting,
    answering,
    blurting,
    check,
    half_close,
    http_answer,
    refusing,
    reset,
    serving,
    wait_closed,
)

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


@pytest.mark.parametrize("verified", [True, False])
async def test_the_end_of_the_backends_certificate_is_seen(pki: Pki, verified: bool) -> None:
    end = datetime(2035, 1, 2, 3, 4, 5, tzinfo=UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki.ca.issue_cert("127.0.0.1", not_after=end).configure_cert(context)
    async with serving(answering(OK), context) as address:
        result = await check(address, replace(HTTPS, ca_file=pki.ca_file if verified else None))
    assert result.verdict is Verdict.UP
    assert result.certificate_expires == end.timestamp()


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


async def test_a_name_that_tls_cannot_ask_for_says_nothing_of_the_backend(pki: Pki) -> None:
    async with serving(answering(OK), pki.server("127.0.0.1")) as address:
        result = await check(address, replace(HTTPS, server_name=".example"))
    assert result.verdict is Verdict.NONE
    assert result.reason.startswith("the check cannot be made: health_check.server_name: ")


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
