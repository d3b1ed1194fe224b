"""What operators have set at run time: it lies over lb.yaml, and stays when that is read again."""

from __future__ import annotations

from dataclasses import replace

from lbproxy.core.config import Backend, BackendState, Config, Pool


class RuntimeState:
    """States and weights by pool and backend address. Not kept across a restart, as in HAProxy without a state file."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], BackendState] = {}
        self._weights: dict[tuple[str, str], int] = {}

    def set_state(self, pool: str, address: str, state: BackendState) -> None:
        self._states[pool, address] = state

    def set_weight(self, pool: str, address: str, weight: int) -> None:
        self._weights[pool, address] = weight

    def state(self) -> list[tuple[str, str, str | None, int | None]]:
        """For a successor: pool, address, state, weight."""
        keys = sorted({*self._states, *self._weights})
        return [
            (*key, self._states[key].value if key in self._states else None, self._weights.get(key)) for key in keys
        ]

    def restore(self, state: list[tuple[str, str, str | None, int | None]]) -> None:
        """What a predecessor knew."""
        for pool, address, word, weight in state:
            if word is not None:
                self.set_state(pool, address, BackendState(word))
            if weight is not None:
                self.set_weight(pool, address, weight)

    def is_set(self, pool: str, address: str) -> bool:
        """Whether anything of that backend is not what lb.yaml says."""
        return (pool, address) in self._states or (pool, address) in self._weights

    def apply(self, config: Config) -> Config:
        """The configuration with what was set over it. What agrees with it, or is in it no more, is forgotten."""
        known = {(pool.name, one.address.text): one for pool in config.pools for one in pool.backends}
        self._states = {key: one for key, one in self._states.items() if key in known and known[key].state is not one}
        self._weights = {key: one for key, one in self._weights.items() if key in known and known[key].weight != one}
        if not (self._states or self._weights):
            return config
        return replace(config, pools=tuple(map(self._pool, config.pools)))

    def _pool(self, pool: Pool) -> Pool:
        backends = tuple(self._backend(pool.name, backend) for backend in pool.backends)
        return pool if backends == pool.backends else replace(pool, backends=backends)

    def _backend(self, pool: str, backend: Backend) -> Backend:
        key = pool, backend.address.text
        state, weight = self._states.get(key, backend.state), self._weights.get(key, backend.weight)
        return replace(backend, state=state, weight=weight)
