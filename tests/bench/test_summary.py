"""Statistics, and the report made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.load import Load
from bench.measure import Run, Settings
from bench.report import Report, table
from bench.summary import Row, Spread, rows


def run(family: str, cpu_us: float | None, *, foreign: float = 0.0, failed: int = 0, verified: bool = True) -> Run:
    """1,000 requests in half a second."""
    load = Load(1000, 0, 500_000, 100, 900, 1000, {"status": failed})
    cpu_ns = None if cpu_us is None else round(cpu_us * 1000 * 1000)
    return Run("tcp-keepalive", f"{family}-tcp", family, 0, load, cpu_ns, 50_000_000, foreign, verified)


def by_family(runs: list[Run]) -> dict[str, Row]:
    return {row.family: row for row in rows(runs)}


def test_median_and_range() -> None:
    row = by_family([run("lbproxy", cost) for cost in (30.0, 10.0, 20.0)])["lbproxy"]
    assert row.cpu_us == Spread(20.0, 10.0, 30.0)
    assert row.operations_per_second.median == 2000
    assert row.machine_us.median == 50


def test_ratios_are_to_nginx_of_the_same_scenario() -> None:
    found = by_family([run("lbproxy", 30.0), run("nginx", 20.0), run("direct", None)])
    assert found["lbproxy"].cpu_ratio == 1.5
    assert found["nginx"].cpu_ratio == 1.0
    assert found["direct"].cpu_ratio is None
    assert found["direct"].rate_ratio == 1.0


def test_without_nginx_there_is_no_ratio() -> None:
    assert by_family([run("lbproxy", 30.0)])["lbproxy"].cpu_ratio is None


def test_noisy_runs_are_left_out_where_there_are_quiet_ones() -> None:
    row = by_family([run("lbproxy", 90.0, foreign=0.06), run("lbproxy", 10.0), run("lbproxy", 20.0)])["lbproxy"]
    assert row.cpu_us == Spread(15.0, 10.0, 20.0)
    assert (row.runs, row.noisy) == (3, 1)


def test_quiet_runs_of_one_are_not_compared_with_noisy_runs_of_another() -> None:
    found = by_family([run("lbproxy", 90.0, foreign=0.5), run("nginx", 10.0), run("nginx", 50.0, foreign=0.5)])
    assert found["nginx"].cpu_us == Spread(30.0, 10.0, 50.0)
    assert found["lbproxy"].cpu_ratio == 3.0


def test_all_noisy_runs_are_better_than_none() -> None:
    assert by_family([run("lbproxy", 90.0, foreign=0.5)])["lbproxy"].cpu_us == Spread(90.0, 90.0, 90.0)


def test_a_run_with_errors_does_not_count_where_there_is_another() -> None:
    found = by_family([run("lbproxy", 1.0, failed=7), run("lbproxy", 30.0), run("nginx", 20.0)])
    assert found["lbproxy"].cpu_us == Spread(30.0, 30.0, 30.0)
    assert (found["lbproxy"].cpu_ratio, found["lbproxy"].errors) == (1.5, 7)


def test_with_errors_in_every_run_nothing_is_compared() -> None:
    found = by_family([run("lbproxy", 30.0, verified=False), run("nginx", 20.0)])
    assert found["lbproxy"].cpu_ratio is None
    found = by_family([run("lbproxy", 30.0), run("nginx", 20.0, failed=1)])
    assert found["lbproxy"].cpu_ratio is None


def test_errors_count_in_noisy_runs_too() -> None:
    row = by_family([run("lbproxy", 1.0, failed=2, foreign=1.0), run("lbproxy", 1.0, failed=3, verified=False)])
    assert (row["lbproxy"].errors, row["lbproxy"].unverified) == (5, 1)


def report(*runs: Run, failed: dict[str, str] | None = None, network: dict[str, str | int] | None = None) -> Report:
    return Report(
        started="2026-01-02T03:04:05+00:00",
        preset="quick",
        settings=Settings(1, 1, 16),
        machine={"cpu": "a CPU", "cpus": 2, **(network or {})},
        versions={"lbproxy": "abc1234"},
        cpus={"contender": [1], "rest": [0]},
        configurations={"nginx-stream": "stream {}"},
        failed=failed or {},
        interrupted=False,
        runs=list(runs),
    )


@pytest.mark.parametrize(
    ("made", "sound"),
    [
        (report(run("lbproxy", 1.0)), True),
        (report(run("lbproxy", 1.0, failed=1)), False),
        (report(run("lbproxy", 1.0, verified=False)), False),
        (report(run("lbproxy", 1.0), failed={"nginx-stream": "did not start"}), False),
        (report(), False),
    ],
)
def test_a_report_is_sound_when_everything_ran_without_an_error(made: Report, sound: bool) -> None:
    assert made.sound is sound


def test_the_file_holds_the_raw_runs_the_configurations_and_the_summary(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"
    report(run("lbproxy", 30.0), run("nginx", 20.0)).save(file)
    kept = json.loads(file.read_text())
    assert kept["configurations"] == {"nginx-stream": "stream {}"}
    assert [one["cpu_ns"] for one in kept["runs"]] == [30_000_000, 20_000_000]
    assert kept["summary"][0]["cpu_ratio"] == 1.5


def test_the_heading_says_in_which_network() -> None:
    made = report(network={"network": "machine's", "congestion_control": "bbr"})
    assert "backends on [0]; network: machine's, bbr\n" in made.heading()


def test_the_table_shows_cost_ratio_and_faults() -> None:
    console = Console(width=140)
    runs = [run("lbproxy", 1.0, failed=7, verified=False), run("lbproxy", 30.0), run("nginx", 20.0)]
    with console.capture() as captured:
        console.print(table(runs))
    line = next(line for line in captured.get().splitlines() if "lbproxy" in line)
    assert "30.0 (30.0–30.0)" in line
    assert "1.50" in line
    assert "7, bytes wrong in 1" in line
