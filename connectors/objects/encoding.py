"""Records as the content of a file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel

from connectors.json_lines import dump_records, plain
from connectors.objects.compression import zstd
from engine.contract.types import Record
from engine.errors import RecordError

__all__ = ["Compression", "FileFormat", "compress", "encode_csv", "encode_jsonl"]

FileFormat = Literal["jsonl", "csv", "parquet"]
Compression = Literal["none", "gzip", "zstd"]

Failures = dict[int, RecordError]


def encode_jsonl(records: Sequence[Record]) -> tuple[bytes, Failures]:
    """Encode as JSON lines; also return the records that JSON cannot express, by index."""
    return dump_records(records)


def encode_csv(
    records: Sequence[Record], columns: Sequence[str], delimiter: str, *, header: bool
) -> tuple[bytes, Failures]:
    """Encode as CSV (RFC 4180, but with line feeds); nested values are JSON.

    Args:
        columns: in this order, others are left out; empty: all fields, in the order they appear.
    """
    mappings = [as_mapping(record) for record in records]
    names = list(columns) or list(dict.fromkeys(name for record in mappings for name in record))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow(names)
    failures: Failures = {}
    for index, record in enumerate(mappings):
        try:
            row = [_cell(record.get(name)) for name in names]
            "".join(row).encode()
        except (TypeError, ValueError) as error:
            failures[index] = RecordError(f"it cannot be written as CSV: {error}", kind="NotCsv")
            continue
        writer.writerow(row)
    return out.getvalue().encode(), failures


def as_mapping(record: Record) -> Mapping[str, Any]:
    """A record as a mapping of its fields."""
    return record.model_dump(mode="json") if isinstance(record, BaseModel) else record


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = orjson.dumps(value, plain).decode()
    # a date or a decimal stands as it is, not in quotes of its own
    return orjson.loads(text) if text.startswith('"') else text


def compress(data: bytes, compression: Compression) -> bytes:
    """Pack content; the same content gives the same bytes.

    Raises:
        FatalError: the module for Zstandard is not installed.
    """
    return _COMPRESS[compression](data)


def _zstandard(data: bytes) -> bytes:
    packed: bytes = zstd().compress(data)
    return packed


_COMPRESS: Final[Mapping[Compression, Callable[[bytes], bytes]]] = {
    "none": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": _zstandard,
}
