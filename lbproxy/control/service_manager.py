"""Telling systemd: ready, reloading, stopping, alive. See sd_notify(3); without systemd all of it does nothing.

The protocol is one datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET names. Nothing is waited for: a
service manager that does not read must not hold up a balancer.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

_OURS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class ServiceManager:
    """Who has started this process, if it listens. `watchdog` is how long it waits for a sign of life, or 0."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Takes its variables out of the environment: they are not for workers."""
        environ = os.environ if environ is None else environ
        self.environment = {name: environ[name] for name in _OURS if name in environ}  # for a successor
        self._path = environ.pop("NOTIFY_SOCKET", "")
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.pop("WATCHDOG_USEC", "")
        self.watchdog = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0
        self._said = ""

    @property
    def listens(self) -> bool:
        """Is there anybody to tell?"""
        return bool(self._path)

    def ready(self) -> None:
        """Started, or done with a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; ready() ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows; the same text is sent once."""
        if text != self._said:
            self._said = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life, due every `watchdog` / 2 seconds."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), path)
            except OSError:
                return
