"""The field: every node is one cell, filled from below as far as its memory is allocated.

A node keeps its place while the fleet is the same, so that a picture on the wall can be learnt.
5 000 cells are a few paths of some 10 kB: each row of cells is one outline per tone, and lines in
the colour of the ground part the cells.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal

Tone = Literal["", "warn-", "bad-"]

_WIDTH: Final = 1128
"""Pixels that the field takes at most: what the page's column has."""

_AREA: Final = _WIDTH * 260
_LEAST, _MOST = 8, 44
"""Pixels that a cell is wide and high, gap included."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One node: `level` is the part of its memory that containers hold, 0 to 1."""

    level: float
    tone: Tone = ""


@dataclasses.dataclass(frozen=True)
class Field:
    """What the template draws: sizes in pixels, and (class, d) of each path."""

    cells: int
    columns: int
    rows: int
    pitch: int
    paths: tuple[tuple[str, str], ...]
    lines: str

    @property
    def width(self) -> int:
        return self.columns * self.pitch

    @property
    def gap(self) -> int:
        """Pixels between two cells."""
        return 1 if self.pitch < 16 else 2

    @property
    def height(self) -> int:
        return self.rows * self.pitch


def draw(cells: Sequence[Cell]) -> Field:
    """The field of `cells`, row by row from the left."""
    pitch = max(_LEAST, min(_MOST, math.isqrt(_AREA // max(1, len(cells)))))
    columns = max(1, min(len(cells), _WIDTH // pitch))
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    return Field(
        cells=len(cells),
        columns=columns,
        rows=len(rows),
        pitch=pitch,
        paths=tuple(_paths(rows, pitch)),
        lines=_lines(columns, len(rows), pitch),
    )


def _paths(rows: Sequence[Sequence[Cell]], pitch: int) -> Iterator[tuple[str, str]]:
    tones: tuple[Tone, ...] = ("", "warn-", "bad-")
    for tone in tones:
        grounds, levels = [], []
        for number, row in enumerate(rows, start=1):
            there = [cell.tone == tone for cell in row]
            grounds.append(_outline([pitch * is_in for is_in in there], pitch, number * pitch))
            heights = [_height(cell, pitch) * is_in for cell, is_in in zip(row, there, strict=True)]
            levels.append(_outline(heights, pitch, number * pitch))
        for part, outlines in (("free", grounds), ("used", levels)):
            if path := "".join(outlines):
                yield f"is-{tone}{part}", path


def _height(cell: Cell, pitch: int) -> int:
    """Pixels: what is allocated is seen however little it is, and what is free as well."""
    if cell.level <= 0:
        return 0
    return pitch if cell.level >= 1 else min(pitch - 2, max(2, round(cell.level * pitch)))


def _outline(heights: Sequence[int], pitch: int, bottom: int) -> str:
    """The outline of columns that stand on `bottom`; "" where all are empty."""
    if not any(heights):
        return ""
    steps, before = [f"M0 {bottom}"], 0
    for height, run in itertools.groupby(heights):
        steps.append(f"v{before - height}h{pitch * len(list(run))}")
        before = height
    return "".join([*steps, f"V{bottom}z"])


def _lines(columns: int, rows: int, pitch: int) -> str:
    down = "".join(f"M{x * pitch} 0V{rows * pitch}" for x in range(columns + 1))
    across = "".join(f"M0 {y * pitch}H{columns * pitch}" for y in range(rows + 1))
    return down + across
