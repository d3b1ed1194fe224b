"""Every complaint about a configuration, word for word and with its line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbproxy.control.config_process import load_apart
from lbproxy.control.configfile import ConfigError, load, loads

NOBODY = 65534
CASES = Path(__file__).with_name("refused_configs.txt")


def _cases() -> list[tuple[str, str, str]]:
    cases = []
    for part in CASES.read_text().split("\n=== ")[1:]:
        name, _, rest = part.partition("\n")
        text, _, complaints = rest.partition("\n>>>\n")
        cases.append((name, text + "\n", complaints.strip()))
    return cases


@pytest.mark.parametrize(("text", "complaints"), [case[1:] for case in _cases()], ids=[case[0] for case in _cases()])
def test_complaints(text: str, complaints: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(text)
    assert str(refused.value) == complaints.replace("DIRECTORY", os.getcwd())
    assert [problem.line for problem in refused.value.problems] == sorted(
        problem.line for problem in refused.value.problems
    )


def test_another_process_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lb.yaml"
    for text in ("listeners: [{bind: '127.0.0.1:1', pool: p}]\npools: {p: {backends: ['127.0.0.1:2']}}\n", "x: 1\n"):
        file.write_text(text)
        outcomes: list[object] = []
        for way in (load, load_apart):
            try:
                outcomes.append(way(str(file)))
            except ConfigError as error:
                outcomes.append(error.problems)
        assert outcomes[0] == outcomes[1]


def test_there_are_many_cases() -> None:
    assert len(_cases()) > 40


def test_control_character() -> None:
    assert _complaints("listen: 0.0.0.0:8080\nmode: \x07\n") == [
        "lb.yaml:2: not valid YAML: the character U+0007 must not stand here"
    ]


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "lb.yaml")
    assert _file_complaints(path) == [f"{path}: cannot be read: No such file or directory"]


def test_directory_for_a_file(tmp_path: Path) -> None:
    assert _file_complaints(str(tmp_path)) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_impossible_file_name() -> None:
    assert _file_complaints("a\0b") == ["a\0b: cannot be read: embedded null byte"]


def test_endless_file() -> None:
    assert _file_complaints("/dev/zero") == ["/dev/zero: larger than 4 MiB: this is no lb.yaml"]


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "lb.yaml"
    path.write_bytes(b"listen: 0.0.0.0:80\nmode: \xff\n")
    assert _file_complaints(str(path)) == [f"{path}:2: not UTF-8 text; save the file as UTF-8"]


def test_deep_nesting() -> None:
    assert _complaints("a: " + "[" * 5000) == ["lb.yaml:1: nested too deeply"]


def test_aliases_that_multiply() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (complaint,) = _complaints("\n".join(lines))
    assert complaint.endswith("more than 200000 values")


def test_too_many_backends() -> None:
    backends = ", ".join(f"10.0.{n // 250}.{n % 250}:80" for n in range(1001))
    assert _complaints(f"listen: 0.0.0.0:80\nmode: tcp\nbackends: [{backends}]\n") == [
        "lb.yaml:1: pools: 1001 backends are too many, the most is 1000 in all pools together"
    ]


@pytest.fixture
def not_root() -> Iterator[int]:
    """An effective uid that file modes bind, as root they do not."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(NOBODY)
    yield os.geteuid()
    os.seteuid(uid)


def test_unreadable_certificate(not_root: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "ca.crt")
        file.touch(mode=0)
        complaints = _complaints(_with_check("ca_file", file))
    words = f'the file "{file}" cannot be read by uid {not_root}; check its mode'
    assert complaints == [f"lb.yaml:4: health_check.ca_file: {words}"]


def test_certificate_in_a_closed_directory(not_root: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        closed = Path(directory, "pki")
        closed.mkdir(mode=0)
        complaints = _complaints(_with_check("ca_file", closed / "ca.crt"))
    words = f'the file "{closed}/ca.crt" cannot be looked at: Permission denied'
    assert complaints == [f"lb.yaml:4: health_check.ca_file: {words}"]


def test_file_that_holds_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text("this is no PEM\n")
    (complaint,) = _complaints(_with_check("ca_file", file))
    assert complaint.startswith("lb.yaml:4: health_check.ca_file: ca_file: cannot be used: ")


def test_client_certificate_without_its_key(tmp_path: Path) -> None:
    file = tmp_path / "client.crt"
    file.write_text("")
    (complaint,) = _complaints(_with_check("client_cert", file))
    assert complaint.startswith("lb.yaml:4: health_check.client_cert: client_cert: cannot be used: ")


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "token"
    os.mkfifo(fifo)
    assert _complaints(_with_check("token_file", fifo)) == [
        f'lb.yaml:4: health_check.token_file: "{fifo}" is not a file'
    ]


def _with_check(key: str, file: Path) -> str:
    return f"listen: 0.0.0.0:80\nmode: tcp\nbackends: [10.0.0.1:80]\nhealth_check: {{{key}: {file}}}\n"


def _complaints(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loads(text)
    return [str(problem) for problem in refused.value.problems]


def _file_complaints(path: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(path)
    return [str(problem) for problem in refused.value.problems]
