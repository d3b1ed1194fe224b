"""Lines that are exactly as wide as the terminal, and tables that leave out columns before they wrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.text import Text

from lbproxy.admin.top.words import Glyphs, fit, fit_middle

Row = TypeVar("Row")
Cell = tuple[str, str]  # a text and its style; "" is none

GAP = 2  # cells between two columns


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column. Those with the highest `rank` are left out first; of rank 0 none is."""

    title: str
    cell: Callable[[Row], Cell | Text]
    rank: int = 0
    right: bool = False
    usual: int = 0  # cells that it has at least, so that columns do not move with each number
    least: int = 0  # cells that it can be shrunk to; 0: it cannot
    middle: bool = False  # shrunk in the middle

    def width(self, rows: Sequence[Row]) -> int:
        return max([cell_len(self.title), self.usual, *(cell_len(_words(self.cell(row))) for row in rows)])


def line(width: int, glyphs: Glyphs, *cells: Cell) -> Text:
    """Cells one after the other, cut at the end of the line."""
    text = Text(no_wrap=True, end="")
    left = width
    for words, style in cells:
        part = fit(words, left, glyphs)
        text.append(part, style)
        left -= cell_len(part)
        if left <= 0:
            break
    return text


def apart(width: int, glyphs: Glyphs, left: Sequence[Cell], right: Cell) -> Text:
    """Cells at the left end of the line and one at its right end, which is the more important."""
    room = width - cell_len(right[0])
    text = line(max(room - 1, 0), glyphs, *left)
    text.append(" " * max(room - text.cell_len, 0))
    text.append_text(line(width - text.cell_len, glyphs, right))
    return text


def joined(cells: Iterable[Sequence[Cell]], separator: Cell) -> list[Cell]:
    """Groups of cells in one list, with a separator between two."""
    found: list[Cell] = []
    for group in cells:
        if found and group:
            found.append(separator)
        found.extend(group)
    return found


def table(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    width: int,
    glyphs: Glyphs,
    heading: str = "dim",
) -> list[Text]:
    """A line of titles, and one for each row."""
    chosen = [(column, wide) for column, wide in _fitted(rows, columns, width) if wide > 0]
    titles: list[Cell | Text] = [(column.title, heading) for column, _ in chosen]
    lines = [_row(titles, chosen, width, glyphs)]
    lines += [_row([column.cell(row) for column, _ in chosen], chosen, width, glyphs) for row in rows]
    return lines


def beside(left: Sequence[Text], right: Sequence[Text], left_width: int) -> list[Text]:
    """Two blocks next to each other."""
    lines = []
    for number in range(max(len(left), len(right))):
        text = left[number].copy() if number < len(left) else Text(no_wrap=True, end="")
        if number < len(right):
            text.append(" " * max(left_width - text.cell_len, 0))
            text.append_text(right[number])
        lines.append(text)
    return lines


def _fitted(rows: Sequence[Row], columns: Sequence[Column[Row]], width: int) -> list[tuple[Column[Row], int]]:
    """The columns for which there is room, and how wide each is."""
    wanted = {column.title: column.width(rows) for column in columns}
    kept = list(columns)
    while True:
        over = sum(wanted[column.title] + GAP for column in kept) - GAP - width
        spare = sum(max(wanted[column.title] - column.least, 0) for column in kept if column.least)
        dropped = max(kept, key=lambda column: column.rank)
        if over <= spare or dropped.rank == 0:
            break
        kept.remove(dropped)
    found = []
    for column in kept:
        wide = wanted[column.title]
        if over > 0 and column.least:
            less = min(max(wide - column.least, 0), over)
            over -= less
            wide -= less
        found.append((column, wide))
    return found


def _row(cells: Sequence[Cell | Text], columns: Sequence[tuple[Column[Row], int]], width: int, glyphs: Glyphs) -> Text:
    text = Text(no_wrap=True, end="")
    for number, (cell, (column, wide)) in enumerate(zip(cells, columns, strict=True)):
        if isinstance(cell, tuple):
            words, style = cell
            cell = Text((fit_middle if column.middle else fit)(words, wide, glyphs), style)
        padding = " " * (wide - cell.cell_len)
        text.append(" " * GAP if number else "")
        text.append(padding if column.right else "")
        text.append_text(cell)
        text.append("" if column.right else padding)
    text.truncate(width, overflow="crop")  # by cells: right_crop() counts letters, some of which have no width
    return text


def _words(cell: Cell | Text) -> str:
    return cell.plain if isinstance(cell, Text) else cell[0]
