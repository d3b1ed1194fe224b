"""Keys, and what they change."""

from __future__ import annotations

import pytest

from lbproxy.admin.top.model import History, Look
from lbproxy.admin.top.view import Key, Sort, View, keys, ordered, press, shown
from tests.admin.top.answers import NOW, answer, backend, pool


@pytest.fixture
def look() -> Look:
    return History().take(
        NOW,
        answer(
            pool("p", backend("a:1", active=1), backend("b:1", "down", active=2), backend("c:1", state="drain")),
            pool("q", backend("d:1")),
        ),
    )


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        (b"q", [Key.QUIT]),
        (b"\x1b[A\x1b[B", [Key.UP, Key.DOWN]),
        (b"\x1bOA", [Key.UP]),
        (b"jk2", [Key.DOWN, Key.UP, 2]),
        (b"\x1b[1;5q\x1b[200~\x1b[5~", []),  # not q, not 200 and not 5
        (b"\x1b", []),
        (b"xyz\xff\xc3\xa9", []),
        (b"p s", [Key.PAUSE, Key.PAUSE, Key.SORT]),
    ],
)
def test_keys(data: bytes, meant: list[Key | int]) -> None:
    assert keys(data) == meant


def test_the_cursor_goes_through_all_pools_and_stays_at_the_ends(look: Look) -> None:
    view = View()
    seen = []
    for _ in range(5):
        view = press(view, Key.DOWN, look)
        seen.append(view.selected)
    assert seen == [("p", "a:1"), ("p", "b:1"), ("p", "c:1"), ("q", "d:1"), ("q", "d:1")]
    assert press(view, Key.UP, look).selected == ("p", "c:1")
    assert press(View(), Key.UP, look).selected == ("q", "d:1")
    assert press(View(selected=("p", "gone:1")), Key.DOWN, look).selected == ("p", "a:1")


def test_the_cursor_follows_the_order(look: Look) -> None:
    view = View(selected=("p", "b:1"), sort=Sort.WORST)
    assert press(view, Key.DOWN, look).selected == ("p", "c:1")


def test_a_digit_shows_one_pool_and_again_all(look: Look) -> None:
    view = press(View(), 2, look)
    assert [one.name for _, one, _ in shown(view, look)] == ["q"]
    assert press(view, 2, look).pool == press(view, 0, look).pool == 0
    assert press(view, 3, look) == view
    assert press(view, Key.DOWN, look).selected == ("q", "d:1")


def test_a_pool_that_a_reload_took_away_hides_nothing(look: Look) -> None:
    assert len(shown(View(pool=5), look)) == 2


def test_orders(look: Look) -> None:
    found = {sort: "".join(one.address[0] for one in ordered(look.pools[0], sort)) for sort in Sort}
    assert found[Sort.CONFIG] == "abc"
    assert found[Sort.WORST] == "bca"
    assert found[Sort.ACTIVE] == "bac"
    assert found[Sort.FAILED] == "abc", "equal ones stay in their order"


def test_orders_go_round(look: Look) -> None:
    view = View()
    for _ in Sort:
        view = press(view, Key.SORT, look)
    assert view == View()


def test_without_an_answer_keys_do_no_harm() -> None:
    for key in (Key.UP, Key.DOWN, 1, Key.REDRAW):
        assert press(View(), key, None) == View()
    assert press(View(), Key.PAUSE, None).paused
