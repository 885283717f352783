"""Rows of text in aligned columns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence

MIN_TEXT = 20  # minimum columns of filled text


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return a line for each row; all rows have the same number of cells.

    Args:
        right: indices of the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def with_hanging_text(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of aligned rows whose last cell is text, wrapped with a hanging indent.

    Args:
        width: columns of the terminal; 0 wraps nothing.
    """
    from textwrap import wrap

    starts = aligned([[*row[:-1], "|"] for row in rows])
    lines: list[str] = []
    for row, start in zip(rows, starts, strict=True):
        indent = len(start) - 1
        room = width - indent
        # users copy paths and addresses, so these are never broken
        pieces = (
            wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) if room >= MIN_TEXT else ()
        )
        first, *others = pieces or [row[-1]]
        lines.append(f"{start[:-1]}{first}".rstrip())
        lines += [" " * indent + piece for piece in others]
    return lines


def terminal_width() -> int:
    """Return the columns of the terminal that the output goes to; 0 where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
