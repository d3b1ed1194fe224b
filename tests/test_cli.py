"""The command line, as a process where output and exit status count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbproxy import __version__
from lbproxy.cli import _parser, main
from lbproxy.control.config_reference import schema
from lbproxy.control.configfile import loads

GOOD = "listen: 127.0.0.1:8080\nmode: http\nbackends: [10.0.1.10:8080, 10.0.1.11:8080]\n"
BAD = "listen: 127.0.0.1:8080\nmode: htpp\nbackends: [10.0.1.10]\n"


@pytest.fixture
def good(tmp_path: Path) -> str:
    return _file(tmp_path, GOOD)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    return _file(tmp_path, BAD)


def _file(directory: Path, text: str) -> str:
    path = directory / "lb.yaml"
    path.write_text(text)
    return str(path)


def _lbproxy(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lbproxy", *args], capture_output=True, text=True, timeout=60)


def test_accepted(good: str) -> None:
    done = _lbproxy("-t", "-c", good)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{good}: configuration ok\n")


@pytest.mark.parametrize("options", [["-t"], ["-T"], []])
def test_refused(bad: str, options: list[str]) -> None:
    done = _lbproxy(*options, "-c", bad)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f'{bad}:2: mode: must be tcp or http, not "htpp"; did you mean http?',
        f'{bad}:3: backends[0]: "10.0.1.10": the port is missing; write 10.0.1.10:PORT, such as 10.0.1.10:6443',
        f"{bad}: refused, 2 problems",
    ]


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "none.yaml")
    assert main(["-t", "-c", path]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: cannot be read: No such file or directory",
        f"{path}: refused, 1 problem",
    ]


def test_effective_configuration(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-T", "-c", good]) == 0
    printed = capsys.readouterr()
    assert loads(printed.out).config == loads(GOOD).config
    assert printed.err == ""


def test_warnings_go_to_stderr_and_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, GOOD + "balance: ip_hash\n")
    assert main(["-t", "-c", path]) == 0
    warning, ok = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"{path}:4: warning: balance: ip_hash sends")
    assert ok == f"{path}: configuration ok"


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema()


def test_version() -> None:
    done = _lbproxy("--version")
    assert (done.returncode, done.stdout) == (0, f"lbproxy {__version__}\n")


@pytest.mark.parametrize("args", [["--nonsense"], ["-t", "-T"], ["frobnicate"], ["-c"], ["--conf", "x"]])
def test_wrong_usage(args: list[str]) -> None:
    done = _lbproxy(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: lbproxy")


def test_reader_that_leaves() -> None:
    """`lbproxy schema | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lbproxy", "schema"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("weight 10.0.0.1 5", ("10.0.0.1", None, 5, False)),
        ("weight 10.0.0.1 --pool p 5", ("10.0.0.1", "p", 5, False)),
        ("weight --pool p 10.0.0.1 --json 5", ("10.0.0.1", "p", 5, True)),
        ("weight 10.0.0.1 5 --pool p", ("10.0.0.1", "p", 5, False)),
        ("weight 5 --pool p", (None, "p", 5, False)),
        ("weight --pool p 5", (None, "p", 5, False)),
    ],
)
def test_options_may_stand_anywhere(words: str, expected: tuple[object, ...]) -> None:
    args = _parser(with_demo=False).parse_args(words.split())
    assert (args.backend, args.pool, args.weight, args.json) == expected


def test_a_file_before_the_time() -> None:
    args = _parser(with_demo=False).parse_args(["who", "10.0.0.1:80", "--log", "f", "1700000000"])
    assert (args.source, args.log, args.time) == ("10.0.0.1:80", ["f"], 1700000000.0)


@pytest.mark.parametrize(
    "words",
    [
        ["drain", "--pool", "p", ""],
        ["maint", "", "--pool", "p"],
        ["weight", "", "5", "--pool", "p"],
        ["kick", "--pool", "p", "--client", ""],
        ["kick", "10.0.0.1", "--pool", ""],
    ],
)
def test_an_empty_word_does_not_mean_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--socket", "/nonexistent"])
    assert exit_.value.code == 2
    assert "it is empty; leave it out to mean all" in capsys.readouterr().err


def test_help_names_the_commands() -> None:
    done = _lbproxy("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("-c FILE", "-t", "-T", "schema", "demo", "/etc/lbproxy/lb.yaml"))


def test_help_imports_nothing_that_takes_time() -> None:
    loaded = _modules_after("from lbproxy.cli import main; main(['--help'])")
    assert not loaded & {"trio", "pydantic", "yaml", "h11", "prometheus_client", "ssl"}


def test_testing_a_file_needs_no_event_loop(good: str) -> None:
    loaded = _modules_after(f"from lbproxy.cli import main; main(['-t', '-c', {good!r}])")
    assert "pydantic" in loaded
    assert not loaded & {"trio", "h11", "prometheus_client"}


def _modules_after(code: str) -> set[str]:
    """The modules loaded after some code, which may exit."""
    script = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return set(done.stderr.split())
