"""What a balancer must know of the Kubernetes API: which requests are long streams, and what an error looks like."""

from __future__ import annotations

import json

# Subresources whose requests live as long as their user wants (kube-apiserver's longRunningRequestCheck).
_LONG_SUBRESOURCES = frozenset({b"exec", b"attach", b"portforward", b"proxy"})

_OF_NAMESPACES = frozenset({b"status", b"finalize"})  # what stands behind a namespace's own name

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


def stream_kind(target: bytes) -> str:
    """What kind of long stream a request target names: watch, log, exec, attach, portforward, proxy, or "" if none.

    A watch is `watch` in the query with any value but false and 0 (apiserver, requestinfo.go), or the old path form
    `/api/VERSION/watch/…` and `/apis/GROUP/VERSION/watch/…`; a log is one that is followed.
    """
    path, _, query = target.partition(b"?")
    resource = _resource(path)
    if not resource:
        return ""
    if resource[0] == b"watch" and len(resource) > 1:
        return "watch"
    subresource = resource[2] if len(resource) > 2 else b""
    if subresource in _LONG_SUBRESOURCES:
        return subresource.decode()
    if query and _flag(query, b"watch"):
        return "watch"
    return "log" if query and subresource == b"log" and _flag(query, b"follow") else ""


def is_collection(target: bytes) -> bool:
    """Whether a target names all objects of a kind, which a GET lists: `/api/v1/pods`, `…/namespaces/NAME/pods`."""
    resource = _resource(target.partition(b"?")[0])
    return len(resource) == 1 and resource[0] not in (b"", b"watch")


def lease_name(target: bytes) -> str:
    """NAMESPACE/NAME of the lease that a target names, or ""."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/apis/coordination.k8s.io/"):
        return ""
    segments = path.split(b"/")
    if len(segments) != 8 or segments[4] != b"namespaces" or segments[6] != b"leases":
        return ""
    return f"{segments[5].decode('ascii')}/{segments[7].decode('ascii')}"


def _resource(path: bytes) -> list[bytes]:
    """[RESOURCE, NAME, SUBRESOURCE…] of a path in the API, without its namespace; [] if it names none."""
    segments = path.split(b"/")
    if len(segments) < 3 or segments[1] not in (b"api", b"apis"):
        return []
    resource = segments[3:] if segments[1] == b"api" else segments[4:]
    if len(resource) > 2 and resource[0] == b"namespaces" and (len(resource) > 3 or resource[2] not in _OF_NAMESPACES):
        resource = resource[2:]
    return resource


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
