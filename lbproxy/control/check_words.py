"""What went wrong with a check, in the words that an operator searches for."""

from __future__ import annotations

import errno
import os
import ssl

# Trouble of this process, not of the backend: a check that meets it says nothing.
LOCAL_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

_OS_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset by the backend",
    errno.EPIPE: "connection reset by the backend",
    errno.ETIMEDOUT: "no answer to TCP connect",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ENOENT: "no such socket",
}

# What OpenSSL calls it when the other side does not speak TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})


def seconds(value: float) -> str:
    """A duration as lb.yaml would write it: 1s, 500ms, 2.5s."""
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


def os_words(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return _OS_WORDS.get(error.errno) or os.strerror(error.errno).lower()


def ssl_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the backend closed the connection"
    reason = (error.reason or "").upper()
    if reason in _NOT_TLS:
        return "the backend does not speak TLS (is it health_check.type: http?)"
    if "CERTIFICATE_REQUIRED" in reason:
        return "the backend demands a client certificate; set health_check.client_cert"
    return reason.lower().replace("_", " ") or str(error)


def refused_in_tls(error: ssl.SSLError) -> bool:
    """Whether TLS itself worked and one side refused the other: a certificate not trusted, an alert.

    That takes a living peer, so it is no proof of death.
    """
    return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in (error.reason or "").upper()
