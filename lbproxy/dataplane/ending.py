"""How a worker ends: it hands over what it has to another one, or lets it end here as long as that may take.

Both may be asked for more than once and at the same time. There is one hand-over, the first, because two would take
connections out of each other's hands; a drain may be given less time later on. Who takes over from somebody else
meanwhile passes that on as well.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable

import trio

from lbproxy.core.config import Shutdown
from lbproxy.core.termination import Termination
from lbproxy.dataplane.handover import Handover, HandoverError, take_over
from lbproxy.dataplane.leaving import TakingLeave
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.moving import State
from lbproxy.dataplane.reactor import Reactor

FAREWELL_INTERVAL = 0.5  # seconds between two looks for watches while draining
LOOK = 0.05  # seconds between two looks whether connections are left

log = logging.getLogger(__name__)


class Ending:
    """One worker's. `listeners` are all that there are, and `shutdown` is lb.yaml's, at any time.

    `listener_of` finds, or makes, the one of a connection that comes from elsewhere.
    """

    def __init__(
        self,
        reactor: Reactor,
        listeners: Callable[[], list[Listener]],
        listener_of: Callable[[State], Listener],
        shutdown: Callable[[], Shutdown],
    ) -> None:
        self.draining = False
        self._reactor = reactor
        self._listeners = listeners
        self._listener_of = listener_of
        self._shutdown = shutdown
        self._grace = trio.CancelScope()  # the time that connections have to end, once draining
        self._handover: Handover | None = None
        self._taking_over = 0  # predecessors that hand over now

    @property
    def accepts_no_more(self) -> bool:
        """It drains, or hands over."""
        return self.draining or (self._handover is not None and self._handover.begun)

    async def hand_over(self, channel: socket.socket, seconds: float, nursery: trio.Nursery) -> None:
        """Give everything to a successor, and end. What cannot move within so many seconds is closed."""
        if self._handover is not None:
            channel.close()
            return
        self._handover = handover = Handover(
            channel, self._reactor, self._listeners, self._listener_of, self._expects_more
        )
        left = self._shutdown().drain  # if the successor goes away
        self._reactor.shared += 1
        try:
            await handover.wait_for_hello()
            with trio.move_on_after(seconds) as patience:
                await handover.run()
            if patience.cancelled_caught:
                left = 0.0
        except HandoverError as error:
            log.warning("connections could not be handed over: %s", error)
            if not handover.begun:
                return  # nothing has changed
        finally:
            self._reactor.shared -= 1
            handover.stop()
            if not handover.begun:
                self._handover = None
        self.drain(left, nursery)

    def _expects_more(self) -> bool:
        return self._taking_over > 0

    async def take_over(self, channel: socket.socket) -> int:
        """Go on with everything that a predecessor has; how many connections that are."""
        count = 0
        self._taking_over += 1
        self._reactor.shared += 1
        try:
            async for _ in take_over(channel, self._listener_of, self._reactor):
                count += 1
        except HandoverError as error:
            log.warning("connections could not be taken over: %s", error)
        finally:
            self._taking_over -= 1
            self._reactor.shared -= 1
        return count

    def drain(self, seconds: float, nursery: trio.Nursery) -> None:
        """Accept no more, and cancel the nursery when the connections have ended, or their time is over."""
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + seconds)
        if not self.draining:
            self.draining = True
            nursery.start_soon(self._drain, nursery.cancel_scope)

    async def _drain(self, scope: trio.CancelScope) -> None:
        for listener in self._listeners():
            listener.stop()
        for listener in self._listeners():
            for connection in list(listener.connections):
                connection.drain()
        self._reactor.refresh()
        left = max(self._grace.deadline - trio.current_time(), 0.0)
        leave = TakingLeave(self._reactor, min(self._shutdown().spread, left), random.uniform)
        look_at = 0.0
        with self._grace:
            while self._on_the_way() or any(listener.connections for listener in self._listeners()):
                if trio.current_time() >= look_at:
                    look_at = trio.current_time() + FAREWELL_INTERVAL
                    self._reactor.refresh()
                    leave.look(self._listeners())
                await trio.sleep(LOOK)
        self.close_connections()
        scope.cancel()

    def _on_the_way(self) -> bool:
        """Whether there may be connections that no listener has: taken out and not sent yet, or still to come in."""
        return self._expects_more() or (self._handover is not None and self._handover.under_way)

    def close_connections(self) -> None:
        """All that are left, now."""
        for listener in self._listeners():
            for connection in list(listener.connections):
                connection.close(Termination.SHUTDOWN_DATA)
