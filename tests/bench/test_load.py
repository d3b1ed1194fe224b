"""What is read from wrk and from an answer."""

from __future__ import annotations

import pytest

from bench.load import Load, LoadError, content_length, load_from

REPORT = (
    "Running 1s test @ http://127.0.0.1:8080/\n  1 threads and 16 connections\n"
    'REPORT {"requests":100,"bytes":5000,"duration_us":1000000,"p50_us":180,"p99_us":900,"max_us":4000,'
    '"errors":{"connect":0,"read":1,"write":0,"timeout":2,"status":3}}\n'
)


def test_the_exact_figures_are_found_in_wrks_output() -> None:
    load = load_from(REPORT)
    assert (load.requests, load.bytes, load.p99_us, load.failed) == (100, 5000, 900, 6)


def test_no_report_is_an_error_that_quotes_wrk() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        load_from("unable to connect to 127.0.0.1:1 Connection refused\n")


@pytest.mark.parametrize(
    ("received", "every"),
    [
        (5000, True),
        (5000 + 2 * 50, True),  # the run's end cut off two answers
        (5000 - 2 * 50, True),  # last answers with `close` in the place of `keep-alive`
        (5000 - 2 * 50 - 1, False),  # answers were short
        (5000 + 2 * 50 + 1, False),  # more than connections could be in the middle of
    ],
)
def test_every_byte_of_every_answer_must_have_come(received: int, every: bool) -> None:
    load = Load(100, received, 1, 1, 1, 1, {})
    assert load.has_every_byte(answer_size=50, connections=2) is every


def test_content_length_in_any_case() -> None:
    assert content_length(b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH:  17") == 17
    with pytest.raises(LoadError):
        content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")
