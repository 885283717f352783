"""Encode records as the content of a file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel

from connectors.json_lines import dump_line, dump_records, plain
from connectors.objects.compression import zstd
from engine.contract.plain import model_to_json
from engine.contract.types import Record
from engine.errors import RecordError

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
        columns: columns to write, in order; empty for all fields, in the order they appear.
    """
    mappings, names, failures = fields_of(records, columns, "NotCsv")
    lines = _Lines()
    writer = csv.writer(lines, delimiter=delimiter, lineterminator=lines.END)
    if header:
        writer.writerow(names)
    for index, record in enumerate(mappings):
        if index in failures:
            continue
        try:
            row = [_cell(record.get(name)) for name in names]
            "".join(row).encode()
        except (TypeError, ValueError, RecordError) as error:
            failures[index] = RecordError(f"it cannot be written as CSV: {error}", kind="NotCsv")
            continue
        writer.writerow(row)
    return "".join(lines).encode(), failures


class _Lines(list[str]):
    """Collects lines of `csv.writer` with line feeds, after it has quoted values that contain line ends."""

    END: Final = "\r\n"

    def write(self, line: str) -> None:
        self.append(f"{line.removesuffix(self.END)}\n")


def fields_of(
    records: Sequence[Record], columns: Sequence[str], kind: str
) -> tuple[list[Mapping[str, Any]], list[str], Failures]:
    """Return the fields of each record, the columns (default: all fields), and records that cannot be rows.

    Those are not mappings, or have names that cannot be columns; `kind` is the type of their dead letters.
    """
    mappings: list[Mapping[str, Any]] = []
    failures: Failures = {}
    for index, record in enumerate(records):
        fields = model_to_json(record) if isinstance(record, BaseModel) else record
        why = "it is not a mapping" if not isinstance(fields, Mapping) else "" if columns else _odd(fields)
        if why:
            failures[index] = RecordError(f"it cannot be a row of the file: {why}", kind=kind)
        mappings.append({} if why else fields)
    names = list(columns) or list(dict.fromkeys(name for fields in mappings for name in fields))
    if not names:
        empty = RecordError("it cannot be a row of the file: it has no fields", kind=kind)
        failures = dict.fromkeys(range(len(mappings)), empty) | failures
    return mappings, names, failures


def _odd(fields: Mapping[Any, Any]) -> str:
    """Return why not all of these names can be columns."""
    try:
        "".join(fields).encode()
    except TypeError:
        return "a field has a name that is not text"
    except UnicodeEncodeError:
        return "a field has a name that is not valid Unicode"
    return ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ""  # `null` would be read as text
    try:
        text = orjson.dumps(value, plain).decode()
    except TypeError:  # may contain integers beyond 64 bits
        text = dump_line(value)[:-1].decode()
    # a date is written without JSON's quotes
    return orjson.loads(text) if text.startswith('"') else text


def compress(data: bytes, compression: Compression) -> bytes:
    """Compress content deterministically.

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
