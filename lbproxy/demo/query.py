"""The query parameters of lists and watches: selectors, revisions, limits."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

from lbproxy.demo.exchange import Request
from lbproxy.demo.resources import at
from lbproxy.demo.status import ApiError
from lbproxy.demo.store import Json, Key

_TERM = re.compile(r"^\s*(?P<key>[^!=\s]+?)\s*(?P<operator>==|!=|=)\s*(?P<value>\S*)\s*$")
_SET = re.compile(r"^\s*(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)(?P<key>[^!=\s()]+)\s*$")


@dataclass(frozen=True, slots=True)
class Term:
    key: str
    values: frozenset[str] | None
    """None asks only whether the key exists."""
    negated: bool

    def matches(self, value: object) -> bool:
        if self.values is None:
            return (value is not None) != self.negated
        return (value in self.values) != self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    namespace: str = ""
    """"" for all."""
    labels: tuple[Term, ...] = ()
    fields: tuple[Term, ...] = ()

    def matches(self, key: Key, body: Json) -> bool:
        if self.namespace and key[0] != self.namespace:
            return False
        if not self.labels and not self.fields:
            return True
        labels = at(body, "metadata.labels") or {}
        return all(term.matches(labels.get(term.key)) for term in self.labels) and all(
            term.matches(at(body, term.key)) for term in self.fields
        )


@dataclass(frozen=True, slots=True)
class ListOptions:
    selector: Selector
    revision: int | None
    """None when not given, which asks for the newest state; 0 asks for any."""
    exact: bool
    limit: int
    after: Key | None
    """Where the page begins, from the continue token; `revision` is the token's then."""
    watch: bool
    bookmarks: bool
    initial_events: bool
    timeout: float | None
    table: bool


def parse_list_options(request: Request, namespace: str) -> ListOptions:
    """Raises `ApiError` (400) for what does not parse."""
    revision, after = _revision(request.first("resourceVersion")), None
    if token := request.first("continue"):
        revision, after = _parse_continue(token)
    timeout = request.number("timeoutSeconds", 0)
    return ListOptions(
        selector=Selector(
            namespace, parse_selector(request.first("labelSelector")), parse_selector(request.first("fieldSelector"))
        ),
        revision=revision,
        exact=after is not None or request.first("resourceVersionMatch") == "Exact",
        limit=int(request.number("limit", 0)),
        after=after,
        watch=request.flag("watch"),
        bookmarks=request.flag("allowWatchBookmarks"),
        initial_events=request.flag("sendInitialEvents"),
        timeout=timeout or None,
        table="as=Table" in request.header("accept"),
    )


def parse_selector(text: str) -> tuple[Term, ...]:
    """`a=b,c!=d,e in (f,g),!h`. Raises `ApiError` (400)."""
    return tuple(_term(part) for part in re.split(r",(?![^(]*\))", text) if part.strip())


def _term(text: str) -> Term:
    if match := _SET.match(text):
        values = frozenset(value.strip() for value in match["values"].split(","))
        return Term(match["key"], values, match["operator"] == "notin")
    if match := _TERM.match(text):
        return Term(match["key"], frozenset([match["value"]]), match["operator"] == "!=")
    if match := _EXISTS.match(text):
        return Term(match["key"], None, match["not"] == "!")
    raise ApiError("BadRequest", f"unable to parse requirement: {text!r}")


def _revision(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ApiError("BadRequest", f'Invalid value: "{text}": resourceVersion must be a number')
    return int(text)


def continue_token(revision: int, key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([revision, *key]).encode()).decode()


def _parse_continue(token: str) -> tuple[int, Key]:
    try:
        revision, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(revision), (str(namespace), str(name))
    except (ValueError, binascii.Error):
        raise ApiError("BadRequest", "continue key is not valid") from None
