"""What a balancer must know of the Kubernetes API: which requests are long streams, and what an error looks like."""

from __future__ import annotations

import json

# Subresources whose requests live as long as their user wants (kube-apiserver's longRunningRequestCheck).
_LONG_SUBRESOURCES = frozenset({b"exec", b"attach", b"portforward", b"proxy"})

_PHRASES = {
    400: ("Bad Request", "BadRequest"),
    405: ("Method Not Allowed", "MethodNotAllowed"),
    408: ("Request Timeout", "Timeout"),
    413: ("Content Too Large", "RequestEntityTooLarge"),
    429: ("Too Many Requests", "TooManyRequests"),
    431: ("Request Header Fields Too Large", "BadRequest"),
    500: ("Internal Server Error", "InternalError"),
    501: ("Not Implemented", "BadRequest"),
    502: ("Bad Gateway", "ServiceUnavailable"),
    503: ("Service Unavailable", "ServiceUnavailable"),
    504: ("Gateway Timeout", "Timeout"),
    505: ("HTTP Version Not Supported", "BadRequest"),
}

RETRY_AFTER = 1  # seconds; client-go waits that long and sends the request again, whatever its method


def is_long_stream(target: bytes) -> bool:
    """Whether a request target names a watch, `log?follow`, exec, attach, portforward or proxy.

    A watch is `watch` in the query with any value but false and 0 (apiserver, requestinfo.go), or the old path form
    `/api/VERSION/watch/…` and `/apis/GROUP/VERSION/watch/…`.
    """
    path, _, query = target.partition(b"?")
    segments = path.split(b"/")
    if len(segments) < 3 or segments[1] not in (b"api", b"apis"):
        return False
    resource = segments[3:] if segments[1] == b"api" else segments[4:]
    if not resource:
        return False
    if resource[0] == b"watch" and len(resource) > 1:
        return True
    if resource[0] == b"namespaces" and len(resource) > 3:
        resource = resource[2:]
    subresource = resource[2] if len(resource) > 2 else b""
    if subresource in _LONG_SUBRESOURCES:
        return True
    if not query:
        return False
    return _flag(query, b"watch") or (subresource == b"log" and _flag(query, b"follow"))


def _flag(query: bytes, name: bytes) -> bool:
    """A boolean query parameter as the apiserver reads it: absent, `false` and `0` are false. The first one counts."""
    for parameter in query.split(b"&"):
        key, _, value = parameter.partition(b"=")
        if key == name:
            return value.lower() not in (b"false", b"0")
    return False


def status_response(code: int, message: str, *, not_sent: bool, close: bool, head: bool = False) -> bytes:
    """A whole HTTP/1.1 response of our own: a `Status` object, as the apiserver answers.

    `not_sent` says that no backend has seen the request: only then it carries Retry-After, which client-go takes as
    leave to send any request again, mutations too. `head` leaves the body out, for answers to HEAD.
    """
    phrase, reason = _PHRASES[code]
    retry = not_sent and code in (429, 503)
    status: dict[str, object] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if retry:
        status["details"] = {"retryAfterSeconds": RETRY_AFTER}
    body = json.dumps(status).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {code} {phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-cache, private",
    ]
    if retry:
        lines.append(f"Retry-After: {RETRY_AFTER}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body)
