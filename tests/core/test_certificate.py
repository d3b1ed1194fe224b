"""Until when certificates are valid, against a library that reads all of them."""

from __future__ import annotations

import base64
import contextlib
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.certificate import CertificateError, expiries, expiry

ENDS = [
    datetime(2035, 5, 17, 11, 22, 33, tzinfo=UTC),
    datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),  # the last that has two digits of its year
    datetime(2050, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),  # "no end": RFC 5280, 4.1.2.5
]
CA = trustme.CA()


def pem(end: datetime) -> bytes:
    return CA.issue_cert("127.0.0.1", not_after=end).cert_chain_pems[0].bytes()


def der(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.splitlines()[1:-1]))


WHOLE = der(pem(ENDS[0]))[:500].ljust(500, b"\0")  # each run makes another one: of one length, at least


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_the_end(end: datetime) -> None:
    assert expiry(der(pem(end))) == end.timestamp()
    assert expiries(pem(end)) == [end.timestamp()]


def test_a_bundle_with_its_key() -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    assert expiries(key + b"".join(map(pem, ENDS))) == [end.timestamp() for end in ENDS]


@pytest.mark.parametrize(
    "text", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE"]
)
def test_what_is_none(text: bytes) -> None:
    with pytest.raises(CertificateError):
        expiries(text)


@given(st.data())
def test_what_is_broken_raises_one_error_or_still_has_an_end(data: st.DataObject) -> None:
    whole = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(CertificateError):
        expiry(cut)
