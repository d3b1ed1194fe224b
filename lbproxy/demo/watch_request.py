"""One watch request, from its first byte to its end."""

from __future__ import annotations

import random

import trio

from lbproxy.demo.exchange import Exchange
from lbproxy.demo.query import ListOptions
from lbproxy.demo.resources import Resource
from lbproxy.demo.status import expired
from lbproxy.demo.store import EventType, ExpiredError, Store, encode
from lbproxy.demo.watch import End, View, Watcher, WatchHub, bookmark

MIN_TIMEOUT = 1800.0
"""Seconds; a watch without timeoutSeconds lasts between this and twice this (--min-request-timeout)."""
LAST_BOOKMARK = 2.0
"""Seconds before its end at which a watch gets one more bookmark, so that the next one starts fresh."""


async def serve_watch(
    exchange: Exchange, store: Store, hub: WatchHub, resource: Resource, options: ListOptions
) -> None:
    view = View(resource.id, options.selector, options.table, framed=exchange.chunked)
    watcher = Watcher(exchange.connection, view, options.bookmarks)
    await exchange.start(200, "application/json")
    if options.revision is not None and options.revision > store.revision:
        await _wait_revision(exchange, store, options.revision)
    try:
        past = _past(store, resource, view, options)
    except ExpiredError as error:
        # Not HTTP 410: the head said 200 already. An ERROR event inside the stream (cacher.go, Watch).
        await exchange.write(b'{"type":"ERROR","object":%s}\n' % encode(expired(error)))
        await exchange.end()
        return
    watcher.connection.feed(view.frame(past))
    hub.join(watcher)
    try:
        await _follow(exchange, hub, watcher, options.timeout or MIN_TIMEOUT * (1 + random.random()))
    finally:
        hub.leave(watcher)
    await _end(exchange, watcher)


def _past(store: Store, resource: Resource, view: View, options: ListOptions) -> list[bytes]:
    """Everything before "now": the events after a revision, or one ADDED per object where none was named."""
    if options.revision and not options.initial_events:
        lines = [view.line(event) for event in store.since(resource.id, options.revision)]
        return [line for line in lines if line is not None]
    initial = [
        view.render(EventType.ADDED, stored)
        for key, stored in store.snapshot(resource.id).items()
        if options.selector.matches(key, stored.body)
    ]
    if options.initial_events and options.bookmarks:
        initial.append(bookmark(resource, store.revision, initial_end=True, as_table=options.table))
    return initial


async def _wait_revision(exchange: Exchange, store: Store, revision: int) -> None:
    """A replica may be behind what the client has seen elsewhere; wait for it, as the watch cache does."""
    reached = trio.Event()
    unsubscribe = store.subscribe(lambda event: reached.set() if event.revision >= revision else None)
    try:
        async with trio.open_nursery() as nursery:

            async def leave_when_gone() -> None:
                await exchange.wait_gone()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_when_gone)
            await reached.wait()
            nursery.cancel_scope.cancel()
    finally:
        unsubscribe()


async def _follow(exchange: Exchange, hub: WatchHub, watcher: Watcher, timeout: float) -> None:
    """Until the time is up, the client leaves or somebody stops the watch; `watcher.end` says which (None: left)."""
    with watcher.scope:
        if watcher.bookmarks and timeout > LAST_BOOKMARK:
            with trio.move_on_after(timeout - LAST_BOOKMARK) as scope:
                await exchange.wait_gone()
            if not scope.cancelled_caught:
                return
            hub.bookmark(watcher)
            timeout = LAST_BOOKMARK
        with trio.move_on_after(timeout) as scope:
            await exchange.wait_gone()
        if scope.cancelled_caught:
            watcher.end = End.CLEAN


async def _end(exchange: Exchange, watcher: Watcher) -> None:
    connection = watcher.connection
    match watcher.end:
        case End.CLEAN:
            await connection.flush()
            await exchange.end()
            return
        case End.MID_FIN | End.MID_RST:
            await connection.flush()
            half = b'{"type":"MODIFIED","object":{"kind":"Ha'
            connection.feed(b"%x\r\n%s" % (len(half) + 100, half) if watcher.view.framed else half)
            await connection.flush()
    exchange.taken_over = True
    if watcher.end in (End.RST, End.MID_RST):
        connection.reset()
    elif watcher.end is None:
        connection.close()
    else:
        await connection.finish()
