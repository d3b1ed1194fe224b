"""What the workers know of each other: counts in shared memory, a row for each worker, a column for each thing counted.

Each worker writes its own row only and reads the others', so there are no locks. Two workers may then see the same
last free place at the same instant: a limit can be exceeded by one connection per worker, for as long as these live.
nginx's `zone` locks instead. A row is cleared by the control plane when its worker has ended, however it ended.

A listener's count is kept as its complement (~count, negative) by a worker that takes no connections from it now: they
still count, but nobody leaves the next one to that worker. So a cleared row, all ABSENT, is one of zeroes.
"""

from __future__ import annotations

from lbproxy.core.config import Algorithm, Config, Pool

CELL = 4  # bytes of a count
ABSENT = ~0
BY_CONNECTIONS = frozenset({Algorithm.LEAST_CONN, Algorithm.RANDOM_TWO})


class Board:
    """One worker's view. `cells` are the counts of all rows as a memoryview of int32."""

    __slots__ = ("_base", "_cells", "_row", "_width")

    def __init__(self, cells: memoryview, width: int, row: int) -> None:
        self._cells = cells
        self._width = width
        self._row = row
        self._base = row * width

    def put(self, column: int, count: int) -> None:
        """Tell the others."""
        self._cells[self._base + column] = count

    def elsewhere(self, column: int) -> int:
        """The sum of the others' counts."""
        total = 0
        for row, count in enumerate(self._cells[column :: self._width]):
            if row != self._row:
                total += count if count >= 0 else ~count
        return total

    def least(self, column: int) -> int:
        """The lowest count of another worker that takes connections now; ABSENT if there is none."""
        counts = enumerate(self._cells[column :: self._width])
        return min((count for row, count in counts if count >= 0 and row != self._row), default=ABSENT)


def is_shared(pool: Pool) -> bool:
    """Do the picks of a pool depend on how many connections its backends have?"""
    by_connections = pool.balance.algorithm in BY_CONNECTIONS
    return by_connections or any(backend.max_connections for backend in pool.backends)


def width(config: Config) -> int:
    """Columns: one for each listener, then one for each backend."""
    return len(config.listeners) + sum(len(pool.backends) for pool in config.pools)


def first_column(config: Config, name: str) -> int:
    """Of a pool's first backend; the others follow. A listener's column is its index."""
    column = len(config.listeners)
    for pool in config.pools:
        if pool.name == name:
            return column
        column += len(pool.backends)
    raise KeyError(name)


def rows(workers: int) -> int:
    """Rows to have: for each worker, and for one before it that still drains."""
    return 2 * workers + 2
