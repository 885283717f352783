"""Values that do not fit a model: describe them in the words of its validators, and remove list items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails


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


_MAX_REASONS: Final = 5  # of one record


def details_of(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors of single values, without the values."""
    return error.errors(include_url=False, include_input=False, include_context=False)


def reasons_of(details: Sequence[ErrorDetails]) -> str:
    """Describe the first errors, each with the path of its value."""
    shown = "; ".join(
        ": ".join(filter(None, (".".join(map(str, detail["loc"])), reason_of(detail))))
        for detail in details[:_MAX_REASONS]
    )
    more = len(details) - _MAX_REASONS
    return f"{shown}; and {more} more" if more > 0 else shown


def reason_of(detail: ErrorDetails) -> str:
    """Return the message of an error as its validator worded it."""
    return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
