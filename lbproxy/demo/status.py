"""`Status` objects: how an apiserver says that something went wrong (and that a deletion went well)."""

from __future__ import annotations

from typing import Any

from lbproxy.demo.resources import Resource
from lbproxy.demo.store import ExpiredError, Json, Refused

HTTP_CODES = {
    "BadRequest": 400,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Expired": 410,
    "RequestEntityTooLarge": 413,
    "UnsupportedMediaType": 415,
    "Invalid": 422,
    "TooManyRequests": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "Timeout": 504,
}


class ApiError(Exception):
    """Answer the request with this Status instead."""

    def __init__(self, reason: str, message: str, *, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = HTTP_CODES[reason]
        self.retry_after = retry_after
        """Seconds; sent as the Retry-After header, which clients read as "this was not executed"."""
        if retry_after is not None:
            details["retryAfterSeconds"] = retry_after
        self.status = failure(reason, message, **details)


def failure(reason: str, message: str, **details: Any) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": HTTP_CODES[reason],
    }


def success(**details: Any) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def expired(error: ExpiredError) -> Json:
    return failure("Expired", str(error))


def refused(why: Refused, resource: Resource, name: str) -> ApiError:
    about: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.plural}
    match why:
        case Refused.EXISTS:
            return ApiError("AlreadyExists", f'{resource.id} "{name}" already exists', **about)
        case Refused.MISSING:
            return ApiError("NotFound", f'{resource.id} "{name}" not found', **about)
        case Refused.CONFLICT:
            return ApiError(
                "Conflict",
                f'Operation cannot be fulfilled on {resource.id} "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again",
                **about,
            )
