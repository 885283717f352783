"""Records as a Parquet file, by pyarrow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.objects.csv_types import ColumnType
from connectors.objects.encoding import Compression, Failures, fields_of
from connectors.objects.parquet_format import pyarrow
from engine.contract.types import Record
from engine.errors import RecordError

__all__ = ["encode_parquet"]


MAX_DEPTH = 40
"""Lists and objects inside of one another: readers open no file with more than 100 levels, two for a list."""


def encode_parquet(
    records: Sequence[Record],
    columns: Sequence[str],
    types: Mapping[str, ColumnType],
    compression: Compression,
) -> tuple[bytes, Failures]:
    """Encode as one Parquet file; also return the records that do not fit into its columns, by index.

    A column has its declared type, or the type that most naturally holds all its values; where they have
    none in common, that of the first value, and the others fail.

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
            failures.setdefault(index, RecordError(message, kind="NotParquet"))
    if failures:
        good = [record for index, record in enumerate(plain) if index not in failures]
        if not good:
            return b"", failures
        data, more = encode_parquet(good, names, types, compression)
        places = [index for index in range(len(plain)) if index not in failures]
        return data, failures | {places[index]: error for index, error in more.items()}
    out = io.BytesIO()
    table = pa.Table.from_arrays(arrays, names=names)
    parquet.write_table(table, out, compression=compression)
    return out.getvalue(), {}


def _type(pa: Any, kind: ColumnType | None) -> Any:
    known = {
        "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
        "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"), "decimal": pa.decimal128(38, 9),
    }  # fmt: skip
    return known[kind] if kind is not None else None


def _column(pa: Any, values: list[Any], kind: Any) -> tuple[Any, list[int]]:
    """The values as an array, or what of them does not fit."""
    errors = (pa.ArrowException, TypeError, ValueError, OverflowError)
    if kind is not None:
        values = [_as_declared(pa, value, kind) for value in values]
    try:
        array = pa.array(values, kind)
        return array, _too_deep(pa, array, values)
    except errors:
        pass
    bad: list[int] = []
    for index, value in enumerate(values):
        try:
            scalar = pa.scalar(value, kind)
        except errors:
            bad.append(index)
            continue
        if kind is None and value is not None:
            kind = scalar.type
    # nothing is wrong with each alone: a list whose items differ from those of another
    return (None if kind is None else pa.nulls(0, kind)), bad or list(range(1, len(values)))


def _as_declared(pa: Any, value: Any, kind: Any) -> Any:
    """Text as the value it holds: JSON has no dates and no decimals."""
    if isinstance(value, float) and kind == pa.int64() and not value.is_integer():
        return str(value)  # which is refused: pyarrow would cut the fraction off
    if isinstance(value, float) and pa.types.is_decimal(kind):
        value = str(value)  # the shortest digits; pyarrow takes no floats for decimals
    if not isinstance(value, str) or kind == pa.string():
        return value
    try:
        return pa.scalar(value).cast(kind).as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return value


def _too_deep(pa: Any, array: Any, values: list[Any]) -> list[int]:
    """The values that are nested so deeply that the file could be written and not be opened."""
    if not pa.types.is_nested(array.type) or _type_depth(pa, array.type) <= MAX_DEPTH:
        return []
    return [index for index, value in enumerate(values) if _type_depth(pa, pa.scalar(value).type) > MAX_DEPTH]


def _type_depth(pa: Any, kind: Any) -> int:
    depth, layer = 0, [kind]
    while layer := [one for one in layer if pa.types.is_nested(one)]:
        depth += 1
        layer = [one.field(at).type for one in layer for at in range(one.num_fields)]
    return depth
