"""Convert Arrow columns to JSON, and the values that order rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from connectors.tables.values import json_value
from engine.errors import FatalError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

_TIMESTAMP: Final = "timestamp"
_DATE: Final = "date"


def json_values(column: pa.Array, name: str) -> list[Any]:
    """Convert the values of a column to JSON; times to the microsecond.

    Raises:
        FatalError: Python cannot represent a value, such as a year after 9999.
    """
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column, kind = column.storage, kind.storage_type
    if narrower := _in_microseconds(kind):
        column = column.cast(narrower, safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError) as error:
        # without the text of the error, which may hold bytes of the value
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "Python has no such value"
        raise FatalError(
            f"column {name!r}: a value of type {kind} cannot be read: {reason}; cast it in `query`",
            kind="schema",
        ) from None
    types = pa.types
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or is_text(kind)
    return values if plain else list(map(json_value, values))


def order_values(column: pa.Array, name: str) -> list[Any]:
    """Convert the values of an ordering column to JSON for `bound`.

    Raises:
        FatalError: rows cannot be ordered by such a column.
    """
    import pyarrow as pa

    kind, types = column.type, pa.types
    if types.is_integer(kind) or types.is_floating(kind) or is_text(kind):
        return list(column.to_pylist())
    wrap: Callable[[int], list[Any]]
    if types.is_timestamp(kind):
        unit, zone = kind.unit, kind.tz
        wrap = lambda count: [_TIMESTAMP, unit, zone, count]  # noqa: E731
        counts = column.cast(pa.int64()).to_pylist()
    elif types.is_date(kind):
        wrap = lambda count: [_DATE, count]  # noqa: E731
        counts = column.cast(pa.date32()).cast(pa.int32()).to_pylist()
    else:
        raise FatalError(
            f"rows cannot be ordered by {name!r}, of type {kind}: take a column of integers, text, dates or "
            "times, or cast it in `query`",
            kind="schema",
        )
    return [None if count is None else wrap(count) for count in counts]


def order_texts(column: pa.Array) -> list[str]:
    """Return order values as text, for the keys of records."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:  # in UTC, without a database of time zones
        texts = column.cast(pa.timestamp(kind.unit)).cast(pa.string()).to_pylist()
        return [f"{text}Z" for text in texts]
    return [str(text) for text in column.cast(pa.string()).to_pylist()]


def bound(value: Any) -> pa.Array:
    """Convert a value of `order_values` to the column of a parameter."""
    import pyarrow as pa

    match value:
        case ["timestamp", str(unit), zone, int(count)]:
            return pa.array([count], pa.int64()).cast(pa.timestamp(unit, zone))
        case ["date", int(count)]:
            return pa.array([count], pa.int32()).cast(pa.date32())
    return pa.array([value])


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of this type are text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _in_microseconds(kind: pa.DataType) -> pa.DataType | None:
    """Return the microsecond type for a nanosecond type of times."""
    import pyarrow as pa

    if getattr(kind, "unit", None) != "ns":
        return None
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time64(kind) else pa.duration("us")
