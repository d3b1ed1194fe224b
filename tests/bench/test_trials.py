"""Trials: who plays, what a row says of aims, and one of them in earnest, as short as it gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.contenders import contenders
from bench.trials.measure import TrialRun, plays, trial_rows, trial_turns
from bench.trials.origin import EVENT_SIZE, event
from bench.trials.streams import _payload
from bench.trials.trials import TRIALS
from tests.bench.test_smoke import RUN, assert_nothing_left

BY_NAME = {trial.name: trial for trial in TRIALS}


def run(trial: str, family: str, value: float, errors: int = 0, foreign: float = 0.0) -> TrialRun:
    return TrialRun(trial, family, family, 0, value, {"events": 10.0}, errors, foreign)


@pytest.mark.parametrize(
    ("trial", "ours", "nginx", "ratio", "met"),
    [
        ("watch", 11.0, 10.0, 1.1, True),  # relative: 1.2 times nginx is aimed at
        ("watch", 13.0, 10.0, 1.3, False),
        ("at-rest", 60.0, 20.0, 3.0, True),  # absolute: 70 MB, whatever nginx has
        ("at-rest", 71.0, 90.0, 0.789, False),
        ("two-workers-tcp", 1.7, 2.0, 0.85, True),  # more is better
        ("two-workers-tcp", 1.5, 1.0, 1.5, False),
    ],
)
def test_aims(trial: str, ours: float, nginx: float, ratio: float, met: bool) -> None:
    found = trial_rows([BY_NAME[trial]], [run(trial, "nginx", nginx), run(trial, "lbproxy", ours)])
    assert [row.family for row in found] == ["lbproxy", "nginx"]
    assert found[0].ratio == pytest.approx(ratio, abs=0.001)
    assert found[0].met is met
    assert found[1].met is None


def test_a_run_with_errors_does_not_count() -> None:
    """Refusing is quick: what refused would look cheap."""
    runs = [run("watch", "nginx", 10.0), run("watch", "nginx", 1.0, errors=9), run("watch", "lbproxy", 11.0)]
    ours, nginx = trial_rows([BY_NAME["watch"]], runs)
    assert (nginx.value.median, nginx.errors, nginx.runs) == (10.0, 9, 2)
    assert ours.ratio == pytest.approx(1.1)


def test_without_a_run_free_of_errors_nothing_is_reached_and_nothing_compared() -> None:
    (row,) = trial_rows([BY_NAME["at-rest"]], [run("at-rest", "lbproxy", 20.0, errors=1)])
    assert (row.met, row.ratio) == (False, None)
    found = trial_rows([BY_NAME["watch"]], [run("watch", "nginx", 1.0, errors=1), run("watch", "lbproxy", 11.0)])
    assert found[0].ratio is None


def test_noisy_runs_are_left_out_where_everybody_has_quiet_ones() -> None:
    runs = [run("watch", family, value, foreign=noise) for family in ("lbproxy", "nginx")
            for value, noise in ((10.0, 0.0), (50.0, 0.5))]  # fmt: skip
    found = trial_rows([BY_NAME["watch"]], runs)
    assert [(row.value.median, row.noisy) for row in found] == [(10.0, 1), (10.0, 1)]
    noisy = trial_rows([BY_NAME["watch"]], [*runs, run("watch", "nginx", 60.0, foreign=0.5)])
    assert noisy[0].value.median == 30.0


def test_each_trial_has_as_many_rounds_as_it_wants() -> None:
    turns = trial_turns([BY_NAME["at-rest"], BY_NAME["latency-tcp"]], contenders(), None)
    rounds = {name: {turn.round for turn in turns if turn.trial.name == name} for name in ("at-rest", "latency-tcp")}
    assert rounds == {"at-rest": {0, 1}, "latency-tcp": {0, 1, 2, 3, 4}}


def test_a_trial_without_nginx_has_no_ratio() -> None:
    (row,) = trial_rows([BY_NAME["watch"]], [run("watch", "lbproxy", 1.0)])
    assert (row.ratio, row.met) == (None, None)


def test_turns_go_there_and_back() -> None:
    turns = trial_turns([BY_NAME["at-rest"]], contenders(), 2)
    names = [turn.contender.name for turn in turns]
    assert names == ["lbproxy-http", "nginx-http", "haproxy-http", "haproxy-http", "nginx-http", "lbproxy-http"]


def test_every_trial_has_somebody_to_play_it() -> None:
    assert all(any(plays(each, trial) for each in contenders()) for trial in TRIALS)


def test_events_are_what_an_apiserver_sends() -> None:
    chunks = event(1) + event(2)
    lines = _payload(chunks).splitlines(keepends=True)
    assert [len(line) for line in lines] == [EVENT_SIZE, EVENT_SIZE]
    assert [json.loads(line)["object"]["metadata"]["resourceVersion"] for line in lines] == ["100000001", "100000002"]
    merged = b"%x\r\n%s\r\n" % (2 * EVENT_SIZE, b"".join(lines))  # a proxy may cut differently
    assert _payload(merged) == _payload(chunks)


@pytest.mark.skipif(not all(map(shutil.which, ("nginx", "wrk"))), reason="needs nginx and wrk")
def test_a_short_trial_counts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    argv = ["--quick", "--only", "watc[h],slow-reader-tcp", "--contenders", "lbproxy,nginx", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, *RUN[1:], *argv, "--results", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(file.read_text())
    rows = {(row["trial"], row["family"]): row for row in kept["trial_summary"]}
    assert 1 < rows["watch", "lbproxy"]["value"]["median"] < 1000
    assert rows["watch", "lbproxy"]["ratio"] > 0.1
    assert rows["watch", "nginx"]["details"]["events"] == 2000
    assert "a watch event" in done.stdout
    slow = rows["slow-reader-tcp", "lbproxy"]
    assert slow["details"]["offered_mb_each"] == 500
    assert 0.5 < slow["details"]["read_mb_each"] < 10  # slowly, and not nothing
    assert (slow["errors"], kept["sound"]) == (0, True)
    assert_nothing_left(tmp_path)
