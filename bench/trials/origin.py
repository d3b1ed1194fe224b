"""The backends of the trials: one process with an epoll loop that holds streams open and speaks when it is told to.

`python -m bench.trials.origin PORT...`. A request for a `watch` gets a chunked stream, one for `/endless` a body of
500 MB that is made as it is taken, every other a small answer. On stdin: `emit COUNT SECONDS` sends COUNT events, so
far apart, to every stream; `streams` asks for their number, `poured` for how much of the endless bodies the kernel has
taken. Each command is answered with a line.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import time

from bench.scenarios import SMALL_BODY

EVENT_SIZE = 1000  # bytes of one event's JSON, its newline included
ENDLESS = 500_000_000
_SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(SMALL_BODY),
    SMALL_BODY,
)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
_BODY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % ENDLESS
# What an endless body repeats: whoever reads it can tell each byte from its position.
PATTERN = random.Random(2).randbytes(65536)
_TWICE = memoryview(PATTERN * 2)


def event(number: int) -> bytes:
    """The event with this number (from 1 on), as one chunk: what an apiserver sends of a small object."""
    version = 100_000_000 + number
    start = (
        b'{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"settings",'
        b'"namespace":"default","uid":"8a5a3f0c-2f3b-4e55-9c1e-5d0f2f6c7a11","resourceVersion":"%d",'
        b'"creationTimestamp":"2026-01-01T00:00:00Z"},"data":{"text":"' % version
    )
    body = start + b"x" * (EVENT_SIZE - len(start) - 5) + b'"}}}\n'
    return b"%x\r\n%s\r\n" % (len(body), body)


class Origin:
    """All connections, by file descriptor."""

    def __init__(self, ports: list[int]) -> None:
        self._epoll = select.epoll()
        self._listening = {}
        for port in ports:
            sock = socket.create_server(("127.0.0.1", port), backlog=4096)
            sock.setblocking(False)
            self._listening[sock.fileno()] = sock
            self._epoll.register(sock, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._streams: dict[int, socket.socket] = {}
        self._endless: dict[int, int] = {}
        self._poured = 0
        self._number = 0
        self._emit: list[tuple[float, bool]] = []  # when, and whether it is the last of a command
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._commands = b""

    def run(self) -> None:
        """Until stdin ends."""
        while True:
            wait = -1.0 if not self._emit else max(self._emit[0][0] - time.monotonic(), 0)
            for fd, events in self._epoll.poll(wait):
                if fd == sys.stdin.fileno():
                    if not self._command():
                        return
                elif fd in self._listening:
                    self._accept(self._listening[fd])
                else:
                    self._serve(fd, events)
            while self._emit and self._emit[0][0] <= time.monotonic():
                _when, last = self._emit.pop(0)
                self._number += 1
                chunk = event(self._number)
                for sock in list(self._streams.values()):
                    self._send(sock, chunk)
                if last:
                    print("emitted", flush=True)

    def _command(self) -> bool:
        data = os.read(sys.stdin.fileno(), 4096)
        if not data:
            return False
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            words = line.split()
            if words[0] == b"streams":
                print(len(self._streams), flush=True)
            elif words[0] == b"poured":
                print(self._poured, flush=True)
            else:
                count, apart, start = int(words[1]), float(words[2]), time.monotonic()
                self._emit += [(start + number * apart, number == count - 1) for number in range(count)]
        return True

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(256):
            try:
                sock, _address = listening.accept()
            except OSError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[sock.fileno()] = sock
            self._epoll.register(sock, select.EPOLLIN)

    def _serve(self, fd: int, events: int) -> None:
        sock = self._open[fd]
        if events & select.EPOLLOUT:
            self._pour(sock)
        if events & ~select.EPOLLOUT:
            try:
                data = sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._close(sock)
            elif b"watch" in data:
                self._streams[fd] = sock
                self._send(sock, _STREAM)
            elif b"/endless" in data:
                self._endless[fd] = ENDLESS
                self._send(sock, _BODY)
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            else:
                self._send(sock, _SMALL * data.count(b"\r\n\r\n"))

    def _pour(self, sock: socket.socket) -> None:
        left = self._endless[sock.fileno()]
        try:
            while left:
                at = (ENDLESS - left) % len(PATTERN)
                left -= sock.send(_TWICE[at : at + min(left, len(PATTERN))])
        except OSError:
            pass
        self._poured += self._endless[sock.fileno()] - left
        self._endless[sock.fileno()] = left

    def _send(self, sock: socket.socket, data: bytes) -> None:
        try:
            if sock.send(data) != len(data):
                self._close(sock)  # its reader is too slow: the trial will miss bytes and say so
        except OSError:
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if fd >= 0:
            for kind in (self._open, self._streams, self._endless):
                kind.pop(fd, None)
            sock.close()


if __name__ == "__main__":
    Origin([int(port) for port in sys.argv[1:]]).run()
