"""The control plane's order of things, without workers: verbs that meet a reload or a stop."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from lbproxy.admin.log import Output
from lbproxy.admin.runtime import VerbError, perform
from lbproxy.control.app import ControlPlane
from lbproxy.control.configfile import loads
from lbproxy.control.listening import ListeningSockets

Change = Callable[[str], str] | None

TEXT = """
listeners:
  - {name: p, bind: '127.0.0.1:ONE', mode: tcp, pool: p}
  - {name: q, bind: '127.0.0.1:TWO', mode: tcp, pool: q}
admin: {bind: off, socket: off}
pools:
  p: {backends: ['10.0.0.1:80', '10.0.0.2:80'], health_check: {type: none}}
  q: {backends: ['10.0.0.9:80'], health_check: {type: none}}
"""


def without_first(text: str) -> str:
    return text.replace("'10.0.0.1:80', ", "")


def without_q(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "q" not in line)


def with_another(text: str) -> str:
    return text.replace("'10.0.0.9:80'", "'10.0.0.9:80', '10.0.0.8:80'")


class Scene:
    """A control plane that does not run, and what it has logged."""

    def __init__(self, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.text = TEXT.replace("ONE", str(one.getsockname()[1])).replace("TWO", str(two.getsockname()[1]))
        loaded = loads(self.text)
        self.sockets = ListeningSockets(loaded.config)
        self._file = path.open("w+b")
        self.output = Output(self._file.fileno())
        self.plane = ControlPlane(loaded, self.sockets, (None, ""), self.output, {})

    async def ask_meanwhile(self, verb: str, change: Change, **fields: object) -> str:
        """Ask for something while a reload goes on, or with no change a stop begins; what is complained about."""
        said: list[str] = []

        async def ask() -> None:
            try:
                said.append(str(await perform(self.plane, verb, json.dumps(fields).encode(), "me")))
            except VerbError as error:
                said.append(f"{error.status} {error}")

        async with trio.open_nursery() as nursery, self.plane._reloading:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not said
            if change is None:
                self.plane.draining = True
            else:
                self.plane._loaded = loads(change(self.text)).config
                self.plane._apply(self.plane._runtime_state.apply(self.plane._loaded))
        return said[0]

    def close(self) -> None:
        self.sockets.close()
        self._file.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "log")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fields", "change", "answer"),
    [
        (
            {"backend": "10.0.0.1:80"},
            without_first,
            "404 there is no backend 10.0.0.1:80; there are: 10.0.0.2:80, 10.0.0.9:80",
        ),
        ({"pool": "q"}, without_q, "404 there is no pool q; there are: p"),
        ({"backend": "10.0.0.1:80"}, None, "409 lbproxy is shutting down"),
    ],
)
@pytest.mark.parametrize("verb", ["/state", "/weight"])
async def test_what_is_gone_when_its_turn_comes_is_not_set(
    scene: Scene, verb: str, fields: dict[str, str], change: Change, answer: str
) -> None:
    assert await scene.ask_meanwhile(verb, change, state="drain", weight=5, **fields) == answer
    assert [event for event in scene.plane.events.since(0) if event["event"] in ("state", "weight")] == []


async def test_a_backend_that_a_reload_adds_meanwhile_is_of_the_pool(scene: Scene) -> None:
    said = await scene.ask_meanwhile("/state", with_another, state="drain", pool="q")
    assert "'backends': ['10.0.0.9:80', '10.0.0.8:80']" in said
    assert "'ready': 0" in said
