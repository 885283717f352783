"""Records made of columns of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["record_maker"]

MAX_NAMED = 16
"""Names up to which a dict display is faster than `dict(zip(…))`: twice to three times."""


def record_maker(names: Sequence[str]) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Any]]]:
    """Return a function that makes a dict of each row of columns, which are as many as the names."""
    if not 0 < len(names) <= MAX_NAMED:
        # all columns are as long as the rows are many, and `strict` costs a third more
        return lambda columns: [dict(zip(names, row)) for row in zip(*columns)]  # noqa: B905
    row = "".join(f"v{at}, " for at in range(len(names)))
    items = ", ".join(f"{name!r}: v{at}" for at, name in enumerate(names))
    made: Callable[[Sequence[Sequence[Any]]], list[dict[str, Any]]] = eval(  # noqa: S307 - `repr` of texts
        f"lambda columns: [{{{items}}} for {row}in zip(*columns)]"
    )
    return made
