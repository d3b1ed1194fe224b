"""Which handler answers a request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbproxy.demo import control, discovery, faults, probes, streams
from lbproxy.demo.exchange import Exchange, Request
from lbproxy.demo.query import Term, parse_list_options
from lbproxy.demo.routing import Target
from lbproxy.demo.status import ApiError
from lbproxy.demo.watch_request import serve_watch

if TYPE_CHECKING:
    from lbproxy.demo.server import SimulatedApiserver


def verb_of(request: Request, target: Target | None) -> str:
    """What the counters call a request: `LIST pods`, `WATCH pods`, `GET pods/log`; a path that is no resource."""
    if target is None:
        return request.path
    verb = request.method
    if verb == "GET" and (target.watch or not target.name):
        verb = "WATCH" if request.flag("watch") or target.watch else "LIST"
    suffix = f"/{target.subresource}" if target.subresource else ""
    return f"{verb} {target.resource.plural}{suffix}"


async def dispatch(server: SimulatedApiserver, exchange: Exchange, target: Target | None, endpoint: str) -> None:
    """`endpoint` is the first segment of the path. Raises `ApiError`."""
    if target is not None:
        await _resource(server, exchange, target)
        return
    match endpoint:
        case "readyz" | "livez" | "healthz":
            await _health(server, exchange, endpoint)
        case "echo":
            await probes.echo(exchange, server.name)
        case "bytes":
            await probes.send_bytes(exchange)
        case "upgrade":
            server.mark_stream(exchange.connection)
            await probes.echo_tunnel(exchange)
        case "fault":
            await faults.commit(exchange, faults.parse(exchange.request))
        case "demo":
            await control.serve(server, exchange)
        case _:
            await _discovery(exchange)


async def _health(server: SimulatedApiserver, exchange: Exchange, endpoint: str) -> None:
    request = exchange.request
    code, text = server.health.answer(
        endpoint,
        check="/".join(request.segments[1:]),
        verbose="verbose" in request.query,
        excluded=frozenset(request.query.get("exclude", ())),
    )
    headers = [("X-Content-Type-Options", "nosniff")]
    await exchange.respond(code, text.encode(), "text/plain; charset=utf-8", headers)


async def _discovery(exchange: Exchange) -> None:
    document = discovery.document(exchange.request.segments)
    if document is None:
        raise ApiError("NotFound", "the server could not find the requested resource")
    if exchange.request.segments == ("openapi", "v2") and "protobuf" in exchange.request.header("accept"):
        kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        await exchange.respond(200, discovery.OPENAPI_V2_PROTOBUF, kind)
        return
    await exchange.json(200, document)


async def _resource(server: SimulatedApiserver, exchange: Exchange, target: Target) -> None:
    if target.subresource in streams.SUBRESOURCES:
        server.mark_stream(exchange.connection)
        await streams.serve(exchange, target, server.store)
    elif target.subresource not in ("", *target.resource.subresources):
        raise ApiError("NotFound", "the server could not find the requested resource")
    elif target.name and not target.watch:
        await _object(server, exchange, target)
    else:
        await _collection(server, exchange, target)


async def _object(server: SimulatedApiserver, exchange: Exchange, target: Target) -> None:
    api = server.api
    match exchange.request.method:
        case "GET" | "HEAD":
            await api.get(exchange, target)
        case "PUT":
            await api.replace(exchange, target)
        case "PATCH":
            await api.patch(exchange, target)
        case "DELETE":
            await api.delete(exchange, target)
        case _:
            raise _method_not_allowed()


async def _collection(server: SimulatedApiserver, exchange: Exchange, target: Target) -> None:
    options = parse_list_options(exchange.request, target.namespace)
    if target.name:  # /watch/.../NAME
        named = Term("metadata.name", frozenset({target.name}), negated=False)
        options = replace(options, selector=replace(options.selector, fields=(*options.selector.fields, named)))
    match exchange.request.method:
        case "POST":
            await server.api.create(exchange, target)
        case "DELETE":
            await server.api.delete_collection(exchange, target.resource, options)
        case "GET" | "HEAD" if options.watch or target.watch:
            server.mark_stream(exchange.connection)
            await serve_watch(exchange, server.store, server.hub, target.resource, options)
        case "GET" | "HEAD":
            await server.api.list(exchange, target.resource, options)
        case _:
            raise _method_not_allowed()


def _method_not_allowed() -> ApiError:
    return ApiError("MethodNotAllowed", "the server does not allow this method on the requested resource")
