"""Columns as kubectl prints them, and narrower where a terminal is."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from typing import Final

_GAP: Final = "   "
_NARROWEST: Final = 12
_ELLIPSIS: Final = "…"


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts below `heads`; the columns named in `extra` may be left out, the last first.

    The last column may be cut.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    extra: Sequence[str] = ()


def width() -> int:
    """Columns of the terminal, or 0 where the output is no terminal and need not fit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def lines(table: Table, *, wide: int = 0) -> list[str]:
    """The table's lines, of at most `wide` characters; 0: of as many as it takes."""
    rows = [list(table.heads), *([_plain(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = list(range(len(widths)))
    for head in reversed(table.extra):
        if wide and _total(widths, shown) > wide:
            shown.remove(table.heads.index(head))
    over = _total(widths, shown) - wide if wide else 0
    last = shown[-1]
    if over > 0:
        widths[last] = max(_NARROWEST, widths[last] - over)
    joined = (
        _GAP.join(_cut(row[at], widths[at]).ljust(widths[at]) for at in shown) for row in rows
    )
    return [_cut(line.rstrip(), wide or len(line)) for line in joined]


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1)


def _plain(cell: str) -> str:
    """Names and messages come from strangers: what moves a terminal's cursor does not pass."""
    return "".join(c if c.isprintable() else " " for c in cell) or "-"


def _cut(cell: str, wide: int) -> str:
    return cell if len(cell) <= wide else cell[: wide - 1] + _ELLIPSIS


def bar(part: int, whole: int, *, wide: int = 10) -> str:
    """How full something is: `####......  42%`."""
    if whole <= 0:
        return "-"
    share = min(1.0, part / whole)
    full = round(share * wide)
    return f"{'#' * full}{'.' * (wide - full)} {share * 100:3.0f}%"
