"""What operators set at run time lies over what lb.yaml says."""

from __future__ import annotations

from lbproxy.control.configfile import loads
from lbproxy.control.runtime_state import RuntimeState
from lbproxy.core.config import Backend, BackendState, Config

ONE, TWO = "10.0.0.1:6443", "10.0.0.2:6443"


def config(one: str = "", *more: str) -> Config:
    backends = ", ".join([f"{{address: '{ONE}'{one}}}", *more])
    pools = f"{{p: {{backends: [{backends}]}}, q: {{backends: ['{ONE}']}}}}"
    listeners = "[{bind: '0.0.0.0:1', mode: tcp, pool: p}, {bind: '0.0.0.0:2', mode: tcp, pool: q}]"
    return loads(f"listeners: {listeners}\npools: {pools}\n").config


def first(config: Config, pool: int = 0) -> Backend:
    return config.pools[pool].backends[0]


def test_it_lies_over_each_configuration_that_comes() -> None:
    state = RuntimeState()
    state.set_state("p", ONE, BackendState.DRAIN)
    state.set_weight("p", ONE, 7)
    for each in (config(), config("", f"'{TWO}'"), config(", weight: 3")):
        over = state.apply(each)
        assert (first(over).state, first(over).weight) == (BackendState.DRAIN, 7)
        assert over.pools[0].backends[1:] == each.pools[0].backends[1:]
        assert over.pools[1] == each.pools[1], "the same backend of another pool"
    assert state.is_set("p", ONE)
    assert not state.is_set("q", ONE)


def test_what_agrees_with_lb_yaml_is_forgotten() -> None:
    state = RuntimeState()
    state.set_weight("p", ONE, 7)
    state.apply(config(", weight: 7"))
    assert not state.is_set("p", ONE)
    assert first(state.apply(config(", weight: 2"))).weight == 2
    state.set_state("p", ONE, BackendState.MAINT)
    state.set_state("p", ONE, BackendState.READY)
    assert state.apply(config()) == config()
    assert not state.is_set("p", ONE)


def test_what_is_removed_is_forgotten() -> None:
    state = RuntimeState()
    state.set_state("p", TWO, BackendState.MAINT)
    state.apply(config("", f"'{TWO}'"))
    assert state.is_set("p", TWO)
    state.apply(config())
    assert state.apply(config("", f"'{TWO}'")).pools[0].backends[1].state is BackendState.READY
