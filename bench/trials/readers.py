"""Slow readers: lists of half a gigabyte that clients take at a megabyte a second. Who keeps what they do not take?"""

from __future__ import annotations

import socket
import time

from bench.load import LoadError, content_length
from bench.trials.origin import ENDLESS, PATTERN
from bench.trials.result import Result
from bench.trials.stage import Stage, close_all

READERS = 20
APART = 0.05  # seconds between two sips
SIP = 50_000  # bytes; a megabyte a second for each reader


class _Reader:
    """One client: compares each byte of its body with what stands at that position."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.read = 0
        self.wrong = False

    def ask(self) -> None:
        """Take the head. Raises LoadError, OSError: no body of the right length is offered."""
        self._sock.sendall(b"GET /endless HTTP/1.1\r\nHost: bench\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._sock.recv(1)
            if not data:
                raise LoadError("closed before the head was complete")
            head += data
        if not head.startswith(b"HTTP/1.1 200 ") or content_length(head) != ENDLESS:
            raise LoadError(f"it was answered with {head[:60]!r}")

    def sip(self) -> None:
        data = self._sock.recv(SIP)
        at = self.read % len(PATTERN)
        self.wrong |= not data or data != (PATTERN * 2)[at : at + len(data)]
        self.read += len(data)


def slow_readers(stage: Stage) -> Result:
    """MiB by which the contender grows; how much has left the backends and is not read yet, kernel and all."""
    before = sum(stage.memory().values())
    clients = stage.connect(READERS, receive_buffer=65536)
    readers = [_Reader(sock) for sock in clients]
    most = before
    underway = 0
    try:
        for reader in readers:
            reader.ask()
        sips = round((6 if stage.full else 2) / APART)
        start = time.monotonic()
        for number in range(1, sips + 1):
            for reader in readers:
                reader.sip()
            if number % 10 == 0:
                most = max(most, sum(stage.memory().values()))
                underway = max(underway, stage.origin.poured() - sum(reader.read for reader in readers))
            time.sleep(max(0, start + number * APART - time.monotonic()))
    finally:
        close_all(clients)
    read = sum(reader.read for reader in readers)
    details = {
        "readers": READERS,
        "offered_mb_each": ENDLESS / 1e6,
        "read_mb_each": read / 1e6 / READERS,
        "underway_mb_each": underway / 1e6 / READERS,
    }
    return Result((most - before) / 2**20, details, sum(reader.wrong for reader in readers))
