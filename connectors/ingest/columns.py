"""Encode records as columns: one Arrow record batch, for services that accept it.

A service names its columns in the header `X-ODW-Columns` of its answers, as `name TYPE, …`. Records with
other fields, or with values that Arrow cannot represent exactly, are sent as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.contract.types import Record
from engine.service.appending import arrow_column, arrow_type, has_arrow

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

COLUMNS_TYPE = "application/vnd.apache.arrow.stream"

_MAX_OFFER = 16 * 1024


def offered_columns(header: str) -> dict[str, str]:
    """Return the SQL types of a service's columns by name; empty if there are none that can be sent."""
    if not header or len(header) > _MAX_OFFER or not has_arrow():
        return {}
    pairs = [part.strip().partition(" ") for part in header.split(",")]
    types = {name: sql_type for name, _, sql_type in pairs}
    is_known = len(types) == len(pairs) and all(arrow_type(sql_type) for sql_type in types.values())
    return types if is_known else {}


def encode_columns(records: Sequence[Record], types: Mapping[str, str]) -> bytes | None:
    """Encode records as an Arrow stream, or return None if JSON would differ.

    It differs for records that are not dicts with exactly these fields in the same order, and for values that
    have another type than their column or no form in JSON.
    """
    if not records or set(map(type, records)) != {dict}:
        return None
    names = tuple(records[0])
    if sorted(names) != sorted(types) or list(map(tuple, records)).count(names) != len(records):
        return None
    import pyarrow as pa

    arrays = []
    for name, values in zip(names, zip(*map(dict.values, records), strict=True), strict=True):
        array = arrow_column(types[name], values)
        if array is None or not _is_json(array, values):
            return None
        arrays.append(array)
    batch = pa.record_batch(arrays, names=list(names))
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, batch.schema) as stream:
        stream.write_batch(batch)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _is_json(array: pa.Array, values: Sequence[object]) -> bool:
    """Return whether JSON would keep these numbers: it distinguishes 1 from 1.0, and NaN becomes null."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_list(array.type):
        if not pa.types.is_floating(array.type.value_type):
            return True
        return _is_json(array.flatten(), [item for one in values if isinstance(one, list) for item in one])
    if not pa.types.is_floating(array.type):
        return True
    is_finite = compute.all(compute.is_finite(array), min_count=0).as_py()
    return bool(is_finite) and int not in set(map(type, values))
