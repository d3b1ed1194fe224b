"""The file that the workers' board (core/board.py) is in: passed to each worker, cleared when one has ended."""

from __future__ import annotations

import mmap
import os

from lbproxy.core import board
from lbproxy.core.config import Config
from lbproxy.core.messages import Place


class BoardFile:
    """An unnamed file in memory, and who has which row."""

    def __init__(self, config: Config) -> None:
        self._rows = board.rows(config.workers)
        self._width = board.width(config)
        size = self._rows * self._width * board.CELL
        self._fd = os.memfd_create("lbproxy-board", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self._cells = memoryview(self._map).cast("i")
        self._free = list(range(self._rows))
        for row in self._free:
            self._clear(row)

    def take(self) -> Place | None:
        """A free row; None if there is none, and then the worker counts by itself."""
        return Place(self._fd, self._free.pop(0), self._rows) if self._free else None

    def has(self, place: Place) -> bool:
        """Whether that row is one of this file, and not of one before."""
        return place.fd == self._fd and place.row not in self._free

    def give(self, place: Place) -> None:
        """Its worker has ended, however it ended: its connections are gone."""
        self._clear(place.row)
        self._free.append(place.row)

    def close(self) -> None:
        """The workers have another one."""
        self._cells.release()
        self._map.close()
        os.close(self._fd)

    def _clear(self, row: int) -> None:
        for cell in range(row * self._width, (row + 1) * self._width):
            self._cells[cell] = board.ABSENT
