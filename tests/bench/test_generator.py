"""The generator by the clock: what it counts, from when, and that it looks at every byte."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

import pytest

from bench.scenarios import SMALL_BODY
from bench.trials.generator import Seen, is_right, load

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(SMALL_BODY), SMALL_BODY)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (ANSWER, True),
        (ANSWER[:-1], False),
        (ANSWER.replace(b"usual", b"Usual"), False),
        (ANSWER.replace(b"200 OK", b"503 OK"), False),
        (ANSWER + ANSWER[:20], False),
        (b"", False),
    ],
)
def test_an_answer_is_right_to_its_last_byte(answer: bytes, right: bool) -> None:
    assert is_right(answer) is right


def against(answer: Callable[[socket.socket, int], None], rate: int, count: int) -> Seen:
    """Load a server of one connection that answers each request, by number, with `answer`."""
    client, server = socket.socketpair()

    def serve() -> None:
        with server:
            for number in range(count):
                if not select.select([server], [], [], 5)[0] or not server.recv(4096):
                    return
                answer(server, number)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return load([client], rate, count)
    finally:
        client.close()
        thread.join(5)


def test_whoever_answers_at_once_is_quick() -> None:
    seen = against(lambda sock, _number: sock.sendall(ANSWER), rate=500, count=100)
    assert seen.wrong == 0
    assert 0 < seen.p50_us < seen.max_us
    assert seen.p50_us < 50_000


def test_a_stall_is_counted_against_all_that_were_due_meanwhile() -> None:
    """One answer takes 200 ms; twenty requests fall due in that time. A closed loop would see one slow answer."""

    def stall(sock: socket.socket, number: int) -> None:
        if number == 10:
            time.sleep(0.2)
        sock.sendall(ANSWER)

    seen = against(stall, rate=100, count=60)
    assert seen.wrong == 0
    assert seen.max_us > 190_000
    assert seen.late > 0.2
    assert seen.p99_us > 150_000


def test_answers_in_pieces_are_whole_and_wrong_ones_are_counted() -> None:
    def pieces(sock: socket.socket, number: int) -> None:
        sock.sendall(ANSWER[:30])
        sock.sendall(ANSWER[30:] if number < 9 else ANSWER[30:-3] + b"xxx" + bytes(4096))

    assert against(pieces, rate=500, count=10).wrong == 1
