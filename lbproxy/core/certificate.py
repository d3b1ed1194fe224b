"""Until when a certificate is valid: the one thing of X.509 that is to be watched, read without a library for the rest.

Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature, issuer, validity, ... } ... }
and validity is two times, of which the second counts (RFC 5280, 4.1).
"""

from __future__ import annotations

import binascii
import re
from calendar import timegm

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_DIGITS = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_MAX_LENGTH = 4  # bytes of a length


class CertificateError(ValueError):
    """It is none, or none of those that we can read."""


def expiries(pem: bytes) -> list[float]:
    """When each certificate of a file ends, in seconds since the epoch; there is at least one."""
    blocks = _PEM.findall(pem)
    if not blocks:
        raise CertificateError("there is no certificate in it")
    try:
        return [expiry(binascii.a2b_base64(block)) for block in blocks]
    except binascii.Error as error:
        raise CertificateError(f"it is not base64: {error}") from None


def expiry(der: bytes) -> float:
    """The same for one certificate as it comes in a TLS handshake."""
    body = _enter(der, 0, _SEQUENCE)
    body = _enter(der, body, _SEQUENCE)
    tag, _start, end = _element(der, body)
    if tag == _VERSION:
        body = end
    for _ in range(3):  # serialNumber, signature, issuer
        _tag, _start, body = _element(der, body)
    _tag, _start, end = _element(der, _enter(der, body, _SEQUENCE))
    tag, start, end = _element(der, end)
    return _time(tag, der[start:end])


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element there, where its content begins and where it ends."""
    if at + 2 > len(der):
        raise CertificateError("it is cut off")
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 0 < size <= _MAX_LENGTH:
            raise CertificateError("it is not DER")
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if start + length > len(der):
        raise CertificateError("it is cut off")
    return der[at], start, start + length


def _enter(der: bytes, at: int, wanted: int) -> int:
    tag, start, _end = _element(der, at)
    if tag != wanted:
        raise CertificateError("it is not a certificate")
    return start


def _time(tag: int, text: bytes) -> float:
    """RFC 5280, 4.1.2.5: both end in Z, and have seconds; two digits of a year from 50 on are of the last century."""
    century = b""
    if tag == _UTC_TIME:
        century = b"19" if text >= b"50" else b"20"
    elif tag != _GENERALIZED_TIME:
        raise CertificateError("its end is not a time")
    match = _DIGITS.fullmatch(century + text)
    if match is None:
        raise CertificateError("its end is not a time")
    year, month, day, *clock = map(int, match.groups())
    try:
        return timegm((year, month, day, *clock))
    except ValueError as error:
        raise CertificateError(f"its end is not a time: {error}") from None
