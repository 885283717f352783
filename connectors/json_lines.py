"""Encode and decode JSON lines (https://jsonlines.org).

orjson turns integers beyond 64 bits into floats, and refuses to write them. Lines that may have such a number
are read and written exactly by Python's own module.
"""

from __future__ import annotations

import codecs
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, BinaryIO, Final

import orjson
from pydantic import BaseModel

from connectors.tables.values import json_value
from engine.contract.plain import in_order, model_to_json
from engine.contract.records import are_records
from engine.contract.types import Record
from engine.errors import FatalError, RecordError

_LINE = orjson.OPT_APPEND_NEWLINE

# keeps digits and minus signs, blanks all else
_NUMBERS: Final = bytes(
    ord("0") if 48 <= byte <= 57 else byte if byte == ord("-") else 32 for byte in range(256)
)
_LIST: Final = "a list; the sources `files` and `s3` read its items with `format: json`"
_SPREAD_OUT: Final = (
    "the value continues on the next line; the sources `files` and `s3` read it with `format: json`"
)
_SEVERAL: Final = (
    "more text after the value; if several stand on a line, the sources `files` and `s3` read them with "
    "`format: json`"
)
_BETWEEN: Final = secrets.randbits(53)
"""Stands between lines that are parsed together; random, so that no file contains it."""
_SEPARATOR: Final = b",%d," % _BETWEEN
_LINE_END: Final = orjson.Fragment(b"\n")
_NINETEEN: Final = b"0" * 19
"""This many digits always fit into 64 bits without a minus sign."""


def dump_records(records: Sequence[Record], *, pretty: bool = False) -> tuple[bytes, dict[int, RecordError]]:
    """Encode records as lines of JSON (`pretty`: indented); also return errors for those that fail."""
    whole = None if pretty else _dump_at_once(records)
    if whole is not None:
        return whole, {}
    odd = {kind for kind in set(map(type, records)) if not are_records(kind)}
    lines: list[bytes] = []
    failures: dict[int, RecordError] = {}
    for index, record in enumerate(records):
        try:
            if type(record) in odd:
                raise RecordError("the record is not a mapping of fields", kind="NotAnObject")
            lines.append(dump_line(record, pretty=pretty))
        except RecordError as error:
            failures[index] = error
    return b"".join(lines), failures


def dump_line(value: object, *, pretty: bool = False) -> bytes:
    """Encode a value as a line of JSON (`pretty`: indented).

    Raises:
        RecordError: JSON cannot express it.
    """
    try:
        return orjson.dumps(value, plain, _LINE | orjson.OPT_INDENT_2 if pretty else _LINE)
    except TypeError as error:  # orjson's JSONEncodeError is one
        line = _dump_long_numbers(value, pretty=pretty) if "64-bit" in str(error) else None
        if line is None:
            raise RecordError(f"it cannot be serialized as JSON: {error}", kind="NotJson") from None
        return line


def _dump_at_once(records: Sequence[Record]) -> bytes | None:
    """Encode records together, faster than one by one: orjson allocates a kibibyte per result.

    None if one of them needs a closer look.
    """
    if set(map(type, records)) != {dict}:
        return None
    try:
        return dump_together(records, plain).replace(b",\n,", b"\n") + b"\n"
    except TypeError:
        return None


def dump_together(values: Sequence[object], default: Callable[[Any], object], option: int = 0) -> bytes:
    """Encode values in one call of orjson, with `,\\n,` between them. Raises TypeError as orjson does.

    JSON has line feeds nowhere else: texts escape them.
    """
    woven: list[Any] = [_LINE_END] * (2 * len(values))
    woven[::2] = values
    return orjson.dumps(woven, default, option)[1:-3]


def _dump_long_numbers(value: object, *, pretty: bool) -> bytes | None:
    """Encode a value that orjson refuses only for its integers; None if there is another reason."""
    try:
        text = json.dumps(
            _with_names(value),
            default=_plain_again,
            ensure_ascii=False,
            allow_nan=False,
            separators=None if pretty else (",", ":"),
            indent=2 if pretty else None,
        )
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError):
        return None


def _plain_again(value: object) -> object:
    # a decimal may be an integer that orjson cannot write
    return plain(value) if isinstance(value, Decimal) else orjson.loads(orjson.dumps(value, plain))


def _with_names(value: object) -> object:
    """Return the value, refusing keys that are not texts, which `json` would convert."""
    if isinstance(value, BaseModel):
        return _with_names(model_to_json(value))
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key must be text")
        return {key: _with_names(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_names(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None  # as orjson does
    return value


def has_long_number(data: bytes) -> bool:
    """Return whether this JSON may contain an integer beyond 64 bits."""
    numbers = data.translate(_NUMBERS)
    # this check suffices for most data
    return _NINETEEN in numbers and (b"0" + _NINETEEN in numbers or b"-" + _NINETEEN in numbers)


def parse_json(text: str) -> Any:
    """Parse any JSON, with integers of any size.

    Raises:
        ValueError: it is not JSON, or has an integer of more than 4,300 digits.
    """
    value = orjson.loads(text)
    if not has_long_number(text.encode()):
        return value
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("long numbers, nested too deeply") from None


def parse_lines(lines: Sequence[bytes | None]) -> list[dict[str, Any]] | None:
    """Parse the records on these lines together, a third faster than one by one.

    None if one of them needs a closer look: it is no JSON object, or may have an integer beyond 64 bits.
    """
    try:
        text = _SEPARATOR.join(lines)  # type: ignore[arg-type]
        values: list[Any] = orjson.loads(b"[%b]" % text)
    except (TypeError, orjson.JSONDecodeError):  # TypeError: a line that is too long is None
        return None
    records, between = values[::2], values[1::2]
    # what continues on the next line takes the number between them along
    if len(records) != len(lines) or between.count(_BETWEEN) != len(lines) - 1:
        return None
    return None if set(map(type, records)) != {dict} or has_long_number(text) else records


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """Parse the record on a line, with integers of any size.

    Raises:
        RecordError: kind `BrokenLine`: it is not a JSON object. The message begins with `where` (file and
            line) and the column, and quotes nothing of the line.
    """
    # concatenated files may each have a byte order mark
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if line.startswith(b"\0") and line.strip(b"\0"):  # a gap that a crash or a log rotation has left
            return parse_line(line.lstrip(b"\0"), where)
        if not is_utf8(line):
            raise RecordError(f"{where}: the line is not valid UTF-8", kind="BrokenLine") from None
        raise RecordError(f"{where}{_reason(error, line.strip())}", kind="BrokenLine") from None
    if type(record) is not dict:
        kind = _LIST if isinstance(record, list) else "one value"
        raise RecordError(f"{where}: expected a JSON object, got {kind}", kind="BrokenLine")
    return _parse_long_numbers(line, where) if has_long_number(line) else record


def _reason(error: orjson.JSONDecodeError, line: bytes) -> str:
    if line == b"{" or (line.startswith(b"[") and "end of data" in error.msg):
        return f": {_SPREAD_OUT}"
    if line.startswith(b"{") and "after document" in error.msg:
        return f":{error.colno}: {_SEVERAL}"
    return f":{error.colno}: {error.msg}"


def is_utf8(data: bytes) -> bool:
    """Return whether these bytes are valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse_long_numbers(line: bytes, where: str) -> dict[str, Any]:
    """Parse a line that orjson accepted again, exactly."""
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:  # Python's own limit (`sys.set_int_max_str_digits`)
        raise RecordError(f"{where}: an integer has more than 4,300 digits", kind="BrokenLine") from None
    except RecursionError:
        raise RecordError(
            f"{where}: it contains long numbers and is nested too deeply", kind="BrokenLine"
        ) from None
    return record


def write_out(out: BinaryIO, data: bytes) -> None:
    """Write to the standard output and flush it.

    Raises:
        FatalError: it cannot be written, or its reader has closed it.
    """
    try:
        out.write(data)
        out.flush()
    except BrokenPipeError as error:
        raise FatalError("the reader of the standard output has gone away") from error
    except OSError as error:
        raise FatalError(f"cannot write to the standard output: {error.strerror}") from error


def plain(value: object) -> object:
    """Convert a value that orjson cannot serialize; a decimal keeps its digits, as text if need be."""
    if isinstance(value, BaseModel):
        return model_to_json(value)
    if isinstance(value, set | frozenset):
        return in_order(value)
    if isinstance(value, Decimal | timedelta | bytes | bytearray | memoryview):
        return json_value(value)
    raise TypeError(f"{type(value).__name__} cannot be serialized as JSON")
