"""Flatten the mappings inside a record."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from engine.errors import RecordError

__all__ = ["flattened"]

MAX_FIELDS = 10_000


def flattened(
    fields: Mapping[str, Any], chosen: Collection[str] | None, separator: str, depth: int
) -> dict[str, Any]:
    """Return the fields with flattened mappings: `customer: {city: x}` becomes `customer_city: x`.

    Lists, empty mappings and values deeper than `depth` do not change.

    Raises:
        RecordError: two fields would have the same name, or there would be too many.
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        inside = isinstance(value, Mapping) and value and (chosen is None or name in chosen)
        for inner, item in _walk(name, value, separator, depth) if inside else [(name, value)]:
            if inner in flat:
                raise RecordError(
                    "flatten: two fields would have the same name", kind="FlattenError", unplanned=True
                )
            flat[inner] = item
            if len(flat) > MAX_FIELDS:
                raise RecordError(
                    f"flatten: more than {MAX_FIELDS:,} fields", kind="FlattenError", unplanned=True
                )
    return flat


def _walk(name: str, value: Any, separator: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth == 0 or not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for inner, item in value.items():
        yield from _walk(f"{name}{separator}{inner}", item, separator, depth - 1)
