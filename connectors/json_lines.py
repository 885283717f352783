"""Records as JSON lines, and back (https://jsonlines.org)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import orjson
from pydantic import BaseModel

from engine.contract.types import Record
from engine.errors import FatalError, RecordError

__all__ = ["dump_records", "parse_line", "write_out"]

_LINE = orjson.OPT_APPEND_NEWLINE


def dump_records(records: Sequence[Record], *, pretty: bool = False) -> tuple[bytes, dict[int, RecordError]]:
    """Each record as a line of JSON (`pretty`: over several lines), and the records that JSON cannot say."""
    option = _LINE | orjson.OPT_INDENT_2 if pretty else _LINE
    dumps = orjson.dumps
    lines: list[bytes] = []
    failures: dict[int, RecordError] = {}
    for index, record in enumerate(records):
        try:
            lines.append(dumps(record, _plain, option))
        except TypeError as error:  # orjson's JSONEncodeError is one
            failures[index] = RecordError(f"it cannot be serialized as JSON: {error}", kind="NotJson")
    return b"".join(lines), failures


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """The record on a line.

    Raises:
        RecordError: kind `BrokenLine`: it is no JSON, or no object. The message begins with `where` (file and
            line) and the column, and quotes nothing of the line.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"{where}:{error.colno}: {error.msg}", kind="BrokenLine") from None
    if type(record) is not dict:
        kind = "a list" if isinstance(record, list) else "one value"
        raise RecordError(f"{where}: expected a JSON object, got {kind}", kind="BrokenLine")
    return record


def write_out(out: BinaryIO, data: bytes) -> None:
    """Write to the standard output and flush it.

    Raises:
        FatalError: it cannot be written, or nobody reads it any more.
    """
    try:
        out.write(data)
        out.flush()
    except BrokenPipeError as error:
        raise FatalError("the reader of the standard output has gone away") from error
    except OSError as error:
        raise FatalError(f"cannot write to the standard output: {error.strerror}") from error


def _plain(value: object) -> object:
    """What orjson does not know by itself."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be serialized as JSON")
