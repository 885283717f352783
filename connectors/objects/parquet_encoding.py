"""Encode records as a Parquet file with pyarrow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from types import NoneType
from typing import Any

from connectors.objects.csv_types import ColumnType
from connectors.objects.encoding import Compression, Failures, fields_of
from connectors.objects.parquet_format import pyarrow
from engine.contract.types import Record
from engine.errors import RecordError

_TIMES = "give it as a time with a zone, e.g. 2026-01-31T12:00:00Z"
_OTHERS = "convert the field before the sink, or choose its type in `types`"

MAX_DEPTH = 40
"""Maximum nesting: readers open no file with more than 100 levels, and a list takes two."""


def encode_parquet(
    records: Sequence[Record],
    columns: Sequence[str],
    types: Mapping[str, ColumnType],
    compression: Compression,
) -> tuple[bytes, Failures]:
    """Encode as one Parquet file; also return the records that do not fit into its columns, by index.

    A column has its declared type, or the most natural type for all its values. If they have none in common,
    the type of the first value is used, and the others fail. An empty object becomes null if no record has a
    field in it.

    Raises:
        FatalError: pyarrow is not installed.
    """
    pa, parquet = pyarrow(), pyarrow("pyarrow.parquet")
    plain, names, failures = fields_of(records, columns, "NotParquet")
    arrays: list[Any] = []
    for name in () if failures else names:
        array, bad = _column(pa, [record.get(name) for record in plain], _type(pa, types.get(name)))
        arrays.append(array)
        for index in bad:
            message = f"the value of {name!r} does not fit into its column"
            if array is not None:
                message += f", which has the type {str(array.type)[:100]}"
            remedy = _TIMES if types.get(name) == "timestamp" else _OTHERS
            failures.setdefault(index, RecordError(f"{message}: {remedy}", kind="NotParquet"))
    if failures:
        good = [record for index, record in enumerate(plain) if index not in failures]
        if not good:
            return b"", failures
        data, more = encode_parquet(good, names, types, compression)
        places = [index for index in range(len(plain)) if index not in failures]
        return data, failures | {places[index]: error for index, error in more.items()}
    out = io.BytesIO()
    table = pa.Table.from_arrays(arrays, names=names)
    parquet.write_table(table, out, compression=compression, write_page_checksum=True)
    return out.getvalue(), {}


def _type(pa: Any, kind: ColumnType | None) -> Any:
    known = {
        "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
        "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"), "decimal": pa.decimal128(38, 9),
    }  # fmt: skip
    return known[kind] if kind is not None else None


def _column(pa: Any, values: list[Any], kind: Any) -> tuple[Any, list[int]]:
    """Convert values to an array; also return the indices of those that do not fit."""
    errors = (pa.ArrowException, TypeError, ValueError, OverflowError)
    if kind is not None:
        values = [_as_declared(pa, value, kind) for value in values]
    try:
        array = pa.array(values, kind)
    except errors:
        array = None
    as_they_are = kind is not None or (array is not None and _is_exact(array.type))
    mixed = [] if as_they_are else _of_another_kind(values)
    if array is not None and not mixed:
        if kind is None and _has_empty_object(array.type):
            return _column(pa, list(map(_without_empty_objects, values)), None)
        return array, _too_deep(pa, array, values)
    scalars = [_scalar(pa, value, kind, errors) for value in values]
    bad = [index for index, scalar in enumerate(scalars) if scalar is None]
    if kind is None:
        kind = next((scalar.type for scalar in scalars if scalar is not None and scalar.is_valid), None)
        if not bad:  # each value is valid alone
            bad = mixed or [at for at, value in enumerate(values) if _scalar(pa, value, kind, errors) is None]
    # a list whose items differ from those of other lists
    return (None if kind is None else pa.nulls(0, kind)), bad or list(range(1, len(values)))


def _scalar(pa: Any, value: Any, kind: Any, errors: tuple[type[Exception], ...]) -> Any:
    try:
        return pa.scalar(value, kind)
    except errors:
        return None


_ALIKE: tuple[frozenset[type], ...] = (
    frozenset({str}), frozenset({int, float}), frozenset({bool}), frozenset({bytes}),
)  # fmt: skip


def _is_exact(kind: Any) -> bool:
    """Return whether pyarrow infers this type only from values that need no conversion."""
    from pyarrow import types  # type: ignore[import-untyped]

    if types.is_nested(kind):
        return all(_is_exact(kind.field(at).type) for at in range(kind.num_fields))
    return bool(
        types.is_string(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)
    )


def _of_another_kind(values: list[Any]) -> list[int]:
    """Return the indices of values of another kind than the first ones.

    pyarrow would convert some: text to bytes, booleans to numbers, and a timestamp to its day.
    """
    types = set(map(type, values)) - {NoneType}
    if any(types <= alike for alike in _ALIKE):
        return []
    kinds: dict[tuple[Any, ...], str] = {}
    return [index for index, value in enumerate(values) if not _is_like(value, kinds, ())]


def _is_like(value: Any, kinds: dict[tuple[Any, ...], str], path: tuple[Any, ...]) -> bool:
    """Return whether each nested value is of the same kind as the first value at its path."""
    if value is None or len(path) > MAX_DEPTH:
        return True
    kind = _OF_JSON.get(type(value)) or _kind_of(value)
    if kind == _ZONED_TIME or kinds.setdefault(path, kind) != kind:
        return False
    if kind == "mapping":
        return all(_is_like(item, kinds, (*path, name)) for name, item in value.items())
    return kind != "sequence" or all(_is_like(item, kinds, (*path, None)) for item in value)


_ZONED_TIME = "time with a zone"
"""pyarrow would drop the zone."""


def _kind_of(value: Any) -> str:
    if isinstance(value, datetime):
        return "moment" if value.tzinfo is None else "moment with a zone"
    if isinstance(value, time) and value.tzinfo is not None:
        return _ZONED_TIME
    return next((name for name, kind in _KINDS.items() if isinstance(value, kind)), type(value).__name__)


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "text": str, "boolean": bool, "number": (int, float, Decimal), "mapping": dict,
    "sequence": (list, tuple, set, frozenset), "bytes": (bytes, bytearray), "date": date,
}  # fmt: skip


_OF_JSON: Mapping[type, str] = {kind: _kind_of(kind()) for kind in (str, bool, int, float, dict, list)}
"""Kinds by type alone, which is faster."""


def _has_empty_object(kind: Any) -> bool:
    """Return whether the type contains objects without fields, which Parquet cannot represent."""
    from pyarrow import types

    if types.is_struct(kind) and not kind.num_fields:
        return True
    return types.is_nested(kind) and any(
        _has_empty_object(kind.field(at).type) for at in range(kind.num_fields)
    )


def _without_empty_objects(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty_objects(item) for name, item in value.items()} or None
    if isinstance(value, list | tuple):
        return [_without_empty_objects(item) for item in value]
    return value


def _as_declared(pa: Any, value: Any, kind: Any) -> Any:
    """Convert text to the declared type: JSON has no dates and no decimals.

    Values that pyarrow would truncate or invent are left as text, which it refuses.
    """
    if isinstance(value, str):
        return value if kind == pa.string() else _parsed(pa, value, kind)
    if isinstance(value, float) and pa.types.is_decimal(kind):
        return _parsed(pa, str(value), kind)  # the shortest digits; pyarrow refuses floats for decimals
    if isinstance(value, float | Decimal) and kind == pa.int64():
        return _whole(value)
    if isinstance(value, Decimal) and kind == pa.float64():
        return float(value)
    return str(value) if _would_change(pa, value, kind) else value


def _would_change(pa: Any, value: Any, kind: Any) -> bool:
    """Return whether pyarrow would silently change the value."""
    if kind == pa.float64():
        return isinstance(value, bool)
    if kind == pa.date32():
        return isinstance(value, int | float | datetime)
    if pa.types.is_timestamp(kind):
        return isinstance(value, int | float) or (isinstance(value, datetime) and value.tzinfo is None)
    return False


def _whole(number: float | Decimal) -> Any:
    try:
        whole = int(number)
    except (ValueError, OverflowError):
        return str(number)
    return whole if whole == number else str(number)


def _parsed(pa: Any, text: str, kind: Any) -> Any:
    try:
        return pa.scalar(text).cast(kind).as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return text


def _too_deep(pa: Any, array: Any, values: list[Any]) -> list[int]:
    """Return the indices of values nested so deeply that the file could be written but not opened."""
    if not pa.types.is_nested(array.type) or _type_depth(pa, array.type) <= MAX_DEPTH:
        return []
    return [index for index, value in enumerate(values) if _type_depth(pa, pa.scalar(value).type) > MAX_DEPTH]


def _type_depth(pa: Any, kind: Any) -> int:
    depth, layer = 0, [kind]
    while layer := [one for one in layer if pa.types.is_nested(one)]:
        depth += 1
        layer = [one.field(at).type for one in layer for at in range(one.num_fields)]
    return depth
