"""Convert values of Arrow columns to JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

Convert = Callable[[Any], list[Any]]

UNREADABLE = object()
"""Marks a value that cannot be represented: a time outside the calendar, or a nested text that is not
UTF-8."""


class MendedTexts(list[Any]):
    """Texts of a column; `replaced` counts characters that replace invalid bytes."""

    replaced = 0


def converter_of(kind: Any) -> Convert | None:
    """Return the converter for a column of this type; None if values need no conversion.

    Dates and times become ISO 8601 with all digits, decimals and durations text, bytes base64, and maps with
    text keys objects. Bytes of text that are not valid UTF-8 become U+FFFD.
    """
    from pyarrow import types  # type: ignore[import-untyped]

    if types.is_timestamp(kind) and kind.unit == "ns":
        return _nanoseconds
    plain = (types.is_integer, types.is_boolean, types.is_floating, types.is_null)
    if any(check(kind) for check in plain):
        return None
    if any(check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view)):
        return _texts
    if types.is_dictionary(kind):
        inner = converter_of(kind.value_type)
        return None if inner is None else lambda column: inner(column.dictionary_decode())
    empty: Any = {} if types.is_map(kind) else []
    return lambda column: [empty if value == [] else _plain(value) for value in _values(column)]


def unreadable_places(column: Sequence[Any], convert: Convert | None) -> list[int]:
    """Return the indices of values that this converter could not represent."""
    if convert in (None, _texts, _nanoseconds):
        return []
    return [place for place, value in enumerate(column) if value is UNREADABLE]


def _texts(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:  # the format requires UTF-8, but not every writer checks it
        return _mended(column.cast(pa.large_binary()).to_pylist())
    return found


def _mended(values: list[bytes | None]) -> MendedTexts:
    found = MendedTexts(None if value is None else value.decode("utf-8", "replace") for value in values)
    found.replaced = sum(text.count("\ufffd") for text in found if text is not None)
    found.replaced -= sum(value.count(b"\xef\xbf\xbd") for value in values if value is not None)
    return found


def _values(column: Any) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, ImportError):
        # nanoseconds inside lists, or years beyond Python's
        found = [_value(scalar) for scalar in column]
    return found


def _value(scalar: Any) -> Any:
    """Convert a value that may exceed Python's range, which Arrow would change or write without a unit."""
    from pyarrow import types

    with suppress(ValueError, OverflowError, ImportError):
        return scalar.as_py()
    kind = scalar.type
    if types.is_map(kind):
        return _each(scalar.values, lambda pairs: [(one["key"], one["value"]) for one in pairs])
    if types.is_struct(kind):
        names, fields = zip(*scalar.items(), strict=True)
        return _each(fields, lambda values: dict(zip(names, values, strict=True)))
    if types.is_nested(kind):
        return _each(scalar.values, list)
    if getattr(kind, "unit", "") != "ns":
        return UNREADABLE
    if types.is_timestamp(kind):
        return _nanoseconds(_array_of(scalar))[0]
    if types.is_duration(kind):
        text = str(timedelta(microseconds=scalar.value // 1000))
        return f"{text}{'' if '.' in text else '.000000'}{scalar.value % 1000:03}"
    return str(_array_of(scalar).cast("string")[0])


def _each(scalars: Iterable[Any], made_of: Callable[[list[Any]], Any]) -> Any:
    values = [_value(scalar) for scalar in scalars]
    return UNREADABLE if any(value is UNREADABLE for value in values) else made_of(values)


def _array_of(scalar: Any) -> Any:
    import pyarrow as pa

    return pa.array([scalar.value], pa.int64()).cast(scalar.type)


def _nanoseconds(column: Any) -> list[Any]:
    import pyarrow as pa

    numbers = column.cast(pa.int64()).to_pylist()
    coarse = pa.array(
        [None if number is None else number // 1000 for number in numbers],
        pa.timestamp("us", column.type.tz),
    ).to_pylist()
    found: list[Any] = []
    for number, moment in zip(numbers, coarse, strict=True):
        if number is None:
            found.append(None)
        elif rest := number % 1000:
            text = moment.isoformat(timespec="microseconds")
            found.append(f"{text[:26]}{rest:03}{text[26:]}")
        else:
            found.append(moment.isoformat())
    return found


def _plain(value: Any) -> Any:
    if value is None or value is UNREADABLE or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(_is_named(one) for one in value):  # a map
        named = {name: _plain(one) for name, one in value}
        # a repeated name would lose one of its values
        return named if len(named) == len(value) else [[name, _plain(one)] for name, one in value]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and isinstance(value[0], str)
