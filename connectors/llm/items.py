"""Remove the list items of a record that do not fit its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

__all__ = ["without_bad_items"]


def without_bad_items(
    values: Mapping[str, object], places: Sequence[Sequence[int | str]], *, null: bool
) -> tuple[dict[str, object], int] | None:
    """Return the values without invalid list items, and the number of items removed.

    None if something outside of lists is invalid.

    Args:
        places: locations of the errors, as Pydantic names them: `("items", 2, "price")`.
        null: replace the items by null instead of removing them.
    """
    found: dict[str, Any] = deepcopy(dict(values))
    bad: dict[tuple[int | str, ...], list[Any]] = {}
    for place in places:
        inner = _innermost_list(found, place)
        if inner is None:
            return None
        path, items = inner
        bad[path] = items
    for path, items in sorted(bad.items(), key=lambda one: [_order(step) for step in one[0]], reverse=True):
        at = path[-1]
        assert isinstance(at, int)
        if null:
            items[at] = None
        else:
            del items[at]
    return found, len(bad)


def _order(step: int | str) -> tuple[int, str]:
    return (step, "") if isinstance(step, int) else (-1, step)


def _innermost_list(
    values: object, place: Sequence[int | str]
) -> tuple[tuple[int | str, ...], list[Any]] | None:
    """Return the path of the innermost list item that contains a location, and its list."""
    found = None
    for depth, step in enumerate(place):
        if isinstance(values, list) and isinstance(step, int) and step < len(values):
            found = (tuple(place[: depth + 1]), values)
            values = values[step]
        elif isinstance(values, Mapping) and step in values:
            values = values[step]
        elif not isinstance(step, str):
            break  # names of union members come in between
    return found
