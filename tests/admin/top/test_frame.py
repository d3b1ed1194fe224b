"""The picture: what it says, and that it fits any terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.admin.top.frame import badge, frame
from lbproxy.admin.top.model import History, Look
from lbproxy.admin.top.view import Sort, View
from lbproxy.admin.top.words import ASCII, UNICODE, Glyphs
from tests.admin.top.answers import NOW, answer, backend, lease, listener, pool, stamp, streams

REASON = "GET /readyz answered 500: etcd failed"


def busy() -> dict[str, Any]:
    """Three masters, one of them not ready, and everything else that there is to show."""
    return answer(
        pool(
            "apiservers",
            backend("10.0.1.10:6443", active=170, total=90_000, long_streams=160, streams={"watch": streams(160)}),
            backend("10.0.1.11:6443", "not_ready", reason=REASON, failed=12),
            backend("10.0.1.12:6443", weight=5, state="drain", set_at_runtime=True, eligible=False, backup=True),
            spread=0.75,
        ),
        listeners=[listener(requests=5, refused=3), listener("raw", mode="tcp", bind=["[::]:8443", "10.0.0.1:8443"])],
        leases={
            "known": 9,
            "renewals": 5,
            "shown": [lease("kube-system/kube-scheduler", 7.5, 8.0), lease("kube-node-lease/n1", 9.0, 11.5)],
        },
    )


def look(status: dict[str, Any]) -> Look:
    history = History()
    history.take(NOW, status)
    return history.take(NOW + 1, status)


def picture(
    status: dict[str, Any], view: View | None = None, width: int = 80, height: int | None = 24, glyphs: Glyphs = UNICODE
) -> str:
    return "\n".join(line.plain for line in frame(look(status), view or View(), width, height, glyphs))


def test_a_small_terminal_shows_what_matters() -> None:
    text = picture(busy())
    assert text.count("\n") == 23
    for words in (
        " 1 NOT READY  lbproxy 1.2.3 · running for 2h",
        "1 apiservers  round_robin · 1 of 3 get connections · spread 75%",
        "10.0.1.10:6443  ● up                   2h ",
        "10.0.1.11:6443  ◐ not ready            2h",
        "10.0.1.12:6443  ◌ drain*     backup    2h",
        f"\n     {REASON}\n",
        "streams    watch 160 oldest 60s",
        "9 known · longest gap 12s node n1 · 7.5s since kube-scheduler renew…",  # nearer to its limit than the node
        "CHANGES",
        " q  quit",
    ):
        assert words in text, text


def test_a_large_terminal_shows_everything_in_tables() -> None:
    text = picture(busy(), View(selected=("apiservers", "10.0.1.10:6443")), 200, 60)
    for words in (
        "WEIGHT  CHECK  TOTAL  SHARE",
        "◐ not ready            2h                     !",
        REASON,
        "raw   [::]:8443, 10.0.0.1:8443  tcp",
        "watch   160     60s         0        160",
        "kube-system/kube-scheduler  7.5s ago         8.0s    10s",
        "LEASES  9 known",
        "90.0k in all · 0 failed",
        "▸ 10.0.1.10:6443",
    ):
        assert words in text, text


def test_the_selected_backend_tells_more() -> None:
    text = picture(busy(), View(selected=("apiservers", "10.0.1.12:6443")))
    assert "▸ 10.0.1.12:6443" in text
    assert "drain, set at run time, backup · weight 5" in text


def test_many_backends_scroll_to_the_selected_one() -> None:
    backends = [backend(f"10.0.0.{number}:6443") for number in range(100)]
    status = answer(pool("apiservers", *backends))
    first = picture(status)
    assert "10.0.0.0:6443 " in first
    assert "10.0.0.77:6443 " not in first
    assert "1-9 shows one pool" in first
    there = picture(status, View(selected=("apiservers", "10.0.0.77:6443")))
    assert "▸ 10.0.0.77:6443" in there
    assert "CHANGES" in there
    assert picture(status, height=None).count(" up ") == 100


DOWN = backend("b:1", "down")


@pytest.mark.parametrize(
    ("status", "view", "words"),
    [
        (answer(), View(), "ALL WELL"),
        (answer(pool("p", backend(), DOWN)), View(), "1 DOWN"),
        (answer(pool("p", backend(), backend("b:1", "not_ready"))), View(), "1 NOT READY"),
        (answer(pool("p", DOWN)), View(), "OUTAGE"),
        (answer(pool("p", backend("b:1", "not_ready"), fail_open=True)), View(), "FAILS OPEN"),
        (answer(pool("p", backend(), backend("b:1", state="maint", eligible=False))), View(), "1 SET ASIDE"),
        (answer(config=answer()["config"] | {"error": "no"}), View(), "RELOAD REFUSED"),
        (answer(draining=True), View(), "DRAINING"),
        (answer(pool("p", DOWN)), View(problem="gone"), "NO ANSWER"),
    ],
)
def test_the_state_in_a_word(status: dict[str, Any], view: View, words: str) -> None:
    assert badge(look(status), view)[0].strip() == words


def test_what_is_wrong_stands_on_top() -> None:
    text = picture(
        answer(config=answer()["config"] | {"error": "lb.yaml:3: no\nmore"}), View(problem="no lbproxy listens at x")
    )
    assert text.splitlines()[2] == " no lbproxy listens at x; what follows is what it said last"
    assert text.splitlines()[3] == " the last reload was refused: lb.yaml:3: no"


def test_nothing_to_show_yet() -> None:
    (first, *rest) = (line.plain for line in frame(None, View(problem="nobody"), 80, 24, UNICODE))
    assert first == " NO ANSWER   nobody"
    assert len(rest) == 23


def test_without_unicode() -> None:
    text = picture(busy(), View(selected=("apiservers", "10.0.1.12:6443")), glyphs=ASCII)
    assert text.isascii()
    assert "> 10.0.1.12:6443  - drain*" in text


def test_a_paused_picture_says_so() -> None:
    assert "PAUSED" in picture(busy(), View(paused=True)).splitlines()[0]


def test_long_names_are_cut_and_numbers_are_not() -> None:
    address = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:6443"
    text = picture(answer(pool("p" * 100, backend(address, active=1234))), width=80)
    assert "[2001:db8" in text
    assert "…" in text
    assert "1,234" in text


def test_columns_do_not_move_when_numbers_grow() -> None:
    def where(text: str) -> list[int]:
        (line,) = (line for line in text.splitlines() if "BACKEND" in line)
        return [line.index(word) for word in ("STATE", "FOR", "OPEN", "REQ/S")]

    calm, wild = answer(), answer(pool("apiservers", backend(health="not_ready", active=9999, since=stamp(NOW - 119))))
    assert where(picture(calm)) == where(picture(wild))


@st.composite
def _status(draw: st.DrawFn) -> dict[str, Any]:
    number = st.integers(0, 10**13)
    words = st.text(max_size=60)
    health = st.sampled_from(["up", "down", "not_ready", "unknown", "new one"])

    def one_backend() -> dict[str, Any]:
        kinds = draw(st.lists(st.sampled_from(["watch", "exec", "logs", "attach"]), max_size=4))
        return backend(
            draw(words),
            draw(health),
            reason=draw(words),
            state=draw(st.sampled_from(["ready", "drain", "maint"])),
            active=draw(number),
            total=draw(number),
            bytes_out=draw(number),
            failed=draw(number),
            backup=draw(st.booleans()),
            streams={kind: streams(draw(number)) for kind in kinds},
            checks=draw(st.lists(st.just({"verdict": "up", "latency_ms": 3.0}), max_size=20)),
        )

    pools = [
        pool(draw(words), *(one_backend() for _ in range(draw(st.integers(1, 4)))), fail_open=draw(st.booleans()))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return answer(
        *pools,
        listeners=[listener(draw(words), pools[0]["name"], mode=draw(st.sampled_from(["tcp", "http"])))],
        leases={"known": 1, "renewals": 1, "shown": [lease(draw(words), 1.0, 50.0)]},
        draining=draw(st.booleans()),
    )


def test_letters_without_a_width_do_not_make_a_row_too_long() -> None:
    for letter in ("\u093a", "\u200d", "\u0301"):
        lines = frame(look(answer(pool("apiservers", backend(letter)))), View(), 1, None, UNICODE)
        assert max(line.cell_len for line in lines) == 1


@given(
    _status(), st.integers(1, 240), st.one_of(st.none(), st.integers(1, 70)), st.sampled_from(list(Sort)), st.booleans()
)
def test_it_fits_every_terminal(
    status: dict[str, Any], width: int, height: int | None, sort: Sort, selected: bool
) -> None:
    known = look(status)
    chosen = (known.backends[-1].pool, known.backends[-1].address) if selected else None
    for view in (View(chosen, sort), View(chosen, sort, paused=True, problem="x" * 100)):
        lines = frame(known, view, width, height, UNICODE)
        assert max(line.cell_len for line in lines) <= width
        assert height is None or len(lines) == height
        assert all(line.plain.isprintable() for line in lines)
