"""The health state machine: its table, and what holds for every sequence of checks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.config import HealthCheck
from lbproxy.core.health import (
    CheckResult,
    CheckTimes,
    Health,
    HealthChanged,
    HealthMachine,
    Verdict,
    judge_answer,
)

UP = CheckResult(Verdict.UP, "GET /readyz answered 200", 200)
NOT_READY = CheckResult(Verdict.NOT_READY, "GET /readyz answered 500: [-]etcd failed", 500, ("etcd",))
SHUTDOWN = CheckResult(Verdict.NOT_READY, "GET /readyz answered 500: [-]shutdown failed", 500, ("shutdown",))
DOWN = CheckResult(Verdict.DOWN, "connection refused")
NONE = CheckResult(Verdict.NONE, "the check cannot be made: too many open files")
LETTERS = {"u": UP, "n": NOT_READY, "s": SHUTDOWN, "d": DOWN, "-": NONE}
SHOWN = {Health.UNKNOWN: "?", Health.UP: "U", Health.NOT_READY: "N", Health.DOWN: "D"}

CHECK = HealthCheck()  # rise 3, fall 2


def healths(checks: str, check: HealthCheck = CHECK) -> str:
    machine = HealthMachine(check)
    seen = ""
    for letter in checks:
        machine.observe(LETTERS[letter])
        seen += SHOWN[machine.health]
    return seen


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        # The first word is believed.
        ("u", "U"),
        ("n", "N"),
        ("s", "N"),
        ("d", "D"),
        ("-", "?"),
        ("-u", "?U"),
        # What has never been up needs one success, whatever came before.
        ("ddddu", "DDDDU"),
        ("nnu", "NNU"),
        # fall: two failures in a row, of either kind.
        ("ud", "UU"),
        ("udd", "UUD"),
        ("unn", "UUN"),
        ("und", "UUN"),
        ("udn", "UUN"),
        ("undd", "UUND"),
        ("ududud", "UUUUUU"),
        ("unununu", "UUUUUUU"),
        # shutdown drains at once; alone it does not cut.
        ("us", "UN"),
        ("usd", "UNN"),
        ("usdd", "UNND"),
        ("uds", "UUN"),
        # rise: three successes in a row bring back what was up once.
        ("udduuu", "UUDDDU"),
        ("udduuduuu", "UUDDDDDDU"),
        ("unnuuu", "UUNNNU"),
        ("unnuunuuu", "UUNNNNNNU"),
        # Somebody there again is seen at once; gone again needs two.
        ("uddn", "UUDN"),
        ("uddnd", "UUDNN"),
        ("uddndd", "UUDNND"),
        ("uddnuuu", "UUDNNNU"),
        # No news changes nothing, and does not break a row.
        ("u-d-d", "UUUUD"),
        ("udd-u-u-u", "UUDDDDDDU"),
    ],
)
def test_sequences(checks: str, expected: str) -> None:
    assert healths(checks) == expected


@pytest.mark.parametrize(
    ("rise", "fall", "checks", "expected"),
    [
        (1, 1, "udu", "UDU"),
        (1, 1, "unu", "UNU"),
        (2, 3, "udddu", "UUUDD"),
        (2, 3, "uddduu", "UUUDDU"),
        (5, 1, "uduuuuu", "UDDDDDU"),
        (3, 3, "unnd", "UUUN"),
        (3, 3, "unnddd", "UUUNND"),
    ],
)
def test_thresholds(rise: int, fall: int, checks: str, expected: str) -> None:
    assert healths(checks, replace(CHECK, rise=rise, fall=fall)) == expected


def test_a_change_tells_why() -> None:
    machine = HealthMachine(CHECK)
    assert machine.observe(UP) == HealthChanged(Health.UNKNOWN, Health.UP, "GET /readyz answered 200")
    assert machine.observe(UP) is None
    assert machine.observe(DOWN) is None
    assert machine.observe(DOWN) == HealthChanged(Health.UP, Health.DOWN, "connection refused (2 checks in a row)")
    assert machine.observe(NOT_READY) == HealthChanged(
        Health.DOWN, Health.NOT_READY, NOT_READY.reason + " (3 checks in a row)", ("etcd",)
    )
    assert [machine.observe(UP) for _ in range(2)] == [None, None]
    assert machine.observe(UP) == HealthChanged(
        Health.NOT_READY, Health.UP, "GET /readyz answered 200 (3 checks in a row)"
    )


results = st.lists(st.sampled_from(list(LETTERS.values())), max_size=40)
thresholds = st.builds(HealthCheck, rise=st.integers(1, 5), fall=st.integers(1, 5))


def states(check: HealthCheck, checks: list[CheckResult]) -> list[Health]:
    machine = HealthMachine(check)
    seen = [machine.health]
    for result in checks:
        old = machine.health
        change = machine.observe(result)
        assert (change is not None) == (machine.health is not old)
        if change is not None:
            assert (change.old, change.new) == (old, machine.health)
        seen.append(machine.health)
    return seen


@given(thresholds, results)
def test_health_never_contradicts_the_check_that_changed_it(check: HealthCheck, checks: list[CheckResult]) -> None:
    seen = states(check, checks)
    for result, old, new in zip(checks, seen, seen[1:], strict=False):
        assert new is not Health.UNKNOWN or old is Health.UNKNOWN
        if old is not new:
            allowed = {Verdict.UP: {Health.UP}, Verdict.NOT_READY: {Health.NOT_READY}}
            assert new in allowed.get(result.verdict, {Health.DOWN, Health.NOT_READY})


@given(thresholds, results, st.sampled_from([UP, NOT_READY, DOWN]))
def test_a_verdict_that_stays_is_believed_in_the_end(
    check: HealthCheck, checks: list[CheckResult], last: CheckResult
) -> None:
    row = max(check.rise, check.fall)
    assert states(check, checks + [last] * row)[-1].value == last.verdict.value


@given(thresholds, results)
def test_up_is_left_only_after_fall_failures_or_a_shutdown(check: HealthCheck, checks: list[CheckResult]) -> None:
    seen = states(check, checks)
    for at, (old, new) in enumerate(pairwise(seen)):
        if old is Health.UP and new is not Health.UP:
            row = [result.verdict for result in checks[: at + 1] if result is not NONE][-check.fall :]
            assert checks[at] is SHUTDOWN or (len(row) == check.fall and Verdict.UP not in row)


@given(thresholds, results)
def test_down_takes_fall_checks_that_say_so_unless_it_is_the_first_word(
    check: HealthCheck, checks: list[CheckResult]
) -> None:
    seen = states(check, checks)
    for at, (old, new) in enumerate(pairwise(seen)):
        if new is Health.DOWN and old not in (Health.DOWN, Health.UNKNOWN):
            row = [result.verdict for result in checks[: at + 1] if result is not NONE][-check.fall :]
            assert row == [Verdict.DOWN] * check.fall


@given(thresholds, results)
def test_a_return_takes_rise_successes(check: HealthCheck, checks: list[CheckResult]) -> None:
    seen = states(check, checks)
    for at, (old, new) in enumerate(pairwise(seen)):
        if new is Health.UP and old is not Health.UP and Health.UP in seen[:at]:
            row = [result.verdict for result in checks[: at + 1] if result is not NONE][-check.rise :]
            assert row == [Verdict.UP] * check.rise


# -- the pace --------------------------------------------------------------------------------------------------


def delays(checks: str, random: float = 0.5, check: HealthCheck = CHECK) -> list[float]:
    machine = HealthMachine(check)
    seen = []
    for letter in checks:
        machine.observe(LETTERS[letter])
        seen.append(machine.next_delay(lambda: random))
    return seen


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ("uuu", [2.0, 2.0, 2.0]),
        ("uddd", [2.0, 0.5, 2.0, 2.0]),  # fast while it falls
        ("udu", [2.0, 0.5, 2.0]),
        ("udduuuu", [2.0, 0.5, 2.0, 0.5, 0.5, 2.0, 2.0]),  # and while it rises
        ("ddd", [0.5, 2.0, 2.0]),  # the first word, if bad, is looked into
        ("nnn", [0.5, 2.0, 2.0]),
        ("du", [0.5, 2.0]),
        ("---", [2.0, 2.0, 2.0]),
        ("us", [2.0, 2.0]),
        ("usdd", [2.0, 2.0, 0.5, 2.0]),
    ],
)
def test_pace(checks: str, expected: list[float]) -> None:
    assert delays(checks) == expected


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_is_a_fifth_each_way_and_only_of_the_steady_interval(random: float) -> None:
    steady, fast = delays("ud", random)
    assert 1.6 <= steady <= 2.4
    assert fast == 0.5


def test_jitter_reaches_both_ends() -> None:
    assert delays("u", 0.0) == [pytest.approx(1.6)]
    assert delays("u", 1.0) == [pytest.approx(2.4)]


def test_a_fast_interval_above_the_interval_slows_nothing_down() -> None:
    assert delays("ud", check=replace(CHECK, interval=0.2, jitter=0.0)) == [0.2, 0.2]


@given(st.lists(st.sampled_from("und"), min_size=100, max_size=100), st.floats(0, 1, exclude_max=True))
def test_a_flapping_backend_is_checked_about_once_a_second(letters: list[str], random: float) -> None:
    """Without rows of successes, that is: flapping is steady state, too; a return is not."""
    checks = "".join(letters).replace("uu", "ud")
    assert sum(delays("u" + checks, random)) >= 0.75 * len(checks)


def test_a_backend_that_never_agrees_with_itself_is_checked_at_the_steady_pace_in_the_end() -> None:
    assert delays("unn" + "ud" * 5)[3:] == [0.5] * 3 + [2.0] * 7


def test_a_silent_backend_is_out_within_five_seconds() -> None:
    """The worst case: silence right after a check, the longest interval, and both connects time out."""
    machine = HealthMachine(CHECK)
    machine.observe(UP)
    elapsed = 0.0
    while machine.health is Health.UP:
        elapsed += machine.next_delay(lambda: 1.0) + CHECK.connect_timeout
        machine.observe(DOWN)
    assert elapsed == pytest.approx(4.9)


# -- answers ---------------------------------------------------------------------------------------------------

FAILING = (
    b"[+]ping ok\n[-]etcd failed: reason withheld\n[+]poststarthook/start-informers ok\n"
    b"[-]shutdown failed: reason withheld\nreadyz check failed\n"
)


def test_an_expected_answer_is_up() -> None:
    assert judge_answer(CHECK, 200, b"ok") == UP
    assert judge_answer(replace(CHECK, expect=(200, 404)), 404, b"").verdict is Verdict.UP


def test_reasons_are_read_from_the_body() -> None:
    result = judge_answer(CHECK, 500, FAILING)
    assert result.verdict is Verdict.NOT_READY
    assert result.failed_checks == ("etcd", "shutdown")
    assert result.reason == "GET /readyz answered 500: [-]etcd failed, [-]shutdown failed"


def test_reasons_never_override_the_status() -> None:
    assert judge_answer(CHECK, 200, FAILING).verdict is Verdict.UP


def test_many_reasons_are_counted() -> None:
    body = b"".join(b"[-]poststarthook/%d failed: reason withheld\n" % number for number in range(30))
    result = judge_answer(CHECK, 500, body)
    assert len(result.failed_checks) == 30
    assert result.reason.endswith("[-]poststarthook/7 failed and 22 more")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", ""),
        (b"  \n ", ""),
        (b"Client sent an HTTP request to an HTTPS server.\n", ": Client sent an HTTP request to an HTTPS server."),
        (b"first\r\nsecond", ": first"),
        (b"\x1b[31mred\x00", ": ?[31mred?"),
        (b"x" * 500, ": " + "x" * 100),
        (b"\xff\xfe", ": \ufffd\ufffd"),
        (b"text [-]etcd failed", ": text [-]etcd failed"),  # not at the start of a line
    ],
)
def test_any_other_body_is_shown_in_part(body: bytes, detail: str) -> None:
    result = judge_answer(CHECK, 503, body)
    assert result == CheckResult(Verdict.NOT_READY, f"GET /readyz answered 503{detail}", 503)


@given(st.integers(100, 999), st.binary(max_size=300))
def test_reasons_are_one_printable_line(status: int, body: bytes) -> None:
    result = judge_answer(CHECK, status, body)
    assert result.reason.isprintable()
    assert len(result.reason) < 2000


@pytest.mark.parametrize(
    ("status", "check", "advice"),
    [
        (401, CHECK, "anonymous auth is off; set health_check.token_file or client_cert"),
        (401, replace(CHECK, token_file="/t"), "the backend is alive but does not accept health_check.token_file"),
        (401, replace(CHECK, client_cert="/c"), "the backend is alive but does not accept health_check.client_cert"),
        (
            403,
            CHECK,
            "the backend is alive, but an anonymous client may not GET /readyz; allow it, or set another token_file or "
            "client_cert",
        ),
        (
            403,
            replace(CHECK, token_file="/t"),
            "the backend is alive, but the user of health_check.token_file may not GET /readyz; allow it, or set "
            "another token_file or client_cert",
        ),
    ],
)
def test_a_refusal_is_a_sign_of_life_with_advice(status: int, check: HealthCheck, advice: str) -> None:
    result = judge_answer(check, status, b'{"kind":"Status"}')
    assert (result.verdict, result.status, result.advice) == (Verdict.UP, status, advice)


def test_a_refusal_becomes_up_with_the_advice_in_its_reason() -> None:
    change = HealthMachine(CHECK).observe(judge_answer(CHECK, 401, b""))
    assert change is not None
    assert change.new is Health.UP
    assert change.reason == (
        "GET /readyz answered 401 Unauthorized: anonymous auth is off; set health_check.token_file or client_cert"
    )


def test_times_add_up_over_the_stages_that_were_reached() -> None:
    assert CheckTimes().total == 0
    assert CheckTimes(connect=0.25, tls=0.5).total == 0.75
    assert CheckTimes(0.25, None, 1.0).total == 1.25
