"""The page of a result: complete, by itself, and safe to open whatever a program said of itself."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.html import page

SPREAD = {"median": 27.1, "low": 25.9, "high": 28.4}
ROW = {
    "scenario": "http-keepalive",
    "contender": "lbproxy-http",
    "family": "lbproxy",
    "runs": 2,
    "noisy": 1,
    "errors": 0,
    "unverified": 0,
    "cpu_us": SPREAD,
    "machine_us": SPREAD,
    "operations_per_second": SPREAD,
    "p50_us": SPREAD,
    "p99_us": SPREAD,
    "cpu_ratio": 1.15,
    "rate_ratio": 0.88,
}
TRIAL_ROW = {
    "trial": "watch",
    "title": "a watch event to each of 1,000 watchers",
    "unit": "CPU µs/event",
    "family": "lbproxy",
    "runs": 1,
    "noisy": 0,
    "value": SPREAD,
    "details": {"events": 2000},
    "errors": 0,
    "ratio": 1.52,
    "reach": 1.2,
    "dream": 1.0,
    "met": False,
}
RESULT: dict[str, Any] = {
    "started": "2026-11-23T19:42:40Z",
    "preset": "quick",
    "machine": {"cpus": 2, "cpu": "some CPU"},
    "versions": {"lbproxy": "abc", "nginx": "1.22.1"},
    "configurations": {"nginx": "server { listen 8080; }"},
    "failed": {},
    "repeated": {},
    "notes": ["latency-tcp: 20,000 requests a second are sent"],
    "interrupted": False,
    "settings": {"connections": 16, "rounds": 2, "seconds": 1},
    "summary": [ROW, ROW | {"family": "nginx", "cpu_ratio": 1.0}],
    "trial_summary": [TRIAL_ROW, TRIAL_ROW | {"family": "nginx", "ratio": 1.0, "met": None}],
}
VOID = {"meta", "rect", "br"}  # circles and paths carry titles: they end with a tag or with a slash


class Reader(HTMLParser):
    """Notes the text, what is open, and what is loaded from anywhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_says_what_was_measured() -> None:
    read = Reader(page(RESULT))
    assert read.open == []
    assert read.loads == []
    for word in ("http-keepalive", "27.1", "1.15", "1/2", "a watch event", "not reached", "server { listen 8080; }"):
        assert word in read.said, word
    assert "Dearer than nginx: http-keepalive 1.15." in read.said


def test_what_went_wrong_stands_first() -> None:
    failed = RESULT | {"failed": {"haproxy-tcp": "it did not start"}, "interrupted": True}
    said = Reader(page(failed)).said
    assert said.index("it did not start") < said.index("CPU per operation")
    assert "The run was interrupted." in said


@pytest.mark.parametrize("empty", ["summary", "trial_summary"])
def test_half_a_run_is_a_page(empty: str) -> None:
    assert Reader(page(RESULT | {empty: []})).open == []


def test_what_was_not_measured_is_a_dash() -> None:
    row = ROW | {"cpu_us": None, "cpu_ratio": None}
    assert "–" in Reader(page(RESULT | {"summary": [row]})).said


def test_nothing_that_a_program_said_is_markup() -> None:
    evil = copy.deepcopy(RESULT)
    evil["configurations"]["<script>x"] = "</pre><script>alert(1)</script>"
    evil["versions"]["nginx"] = "<b>"
    evil["failed"]["<i>"] = "<script>"
    read = Reader(page(evil))
    assert read.loads == []
    assert "</pre><script>alert(1)</script>" in read.said


def test_says_in_which_network() -> None:
    of_now = RESULT["machine"] | {"network": "own namespace", "congestion_control": "cubic"}
    assert "network: own namespace, cubic" in Reader(page(RESULT | {"machine": of_now})).said
    assert "network" not in Reader(page(RESULT)).said  # a result from before that was recorded


def test_page_of_an_old_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "old.json"
    result.write_text(json.dumps(RESULT))
    assert main(["--render", str(result)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == page(RESULT)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"versions": 3}'])
def test_what_is_no_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    result = tmp_path / "no.json"
    result.write_text(text)
    assert main(["--render", str(result)]) == 2
    assert str(result) in capsys.readouterr().err
