"""Split a JSON body into records, preserving the sent bytes.

Parsing would change values that JSON allows but Python's parsers do not preserve: integers beyond 64 bits,
digits beyond a double's, lone surrogates. So a body is split at its commas, without recursion, and a dead
letter keeps every digit of its record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import orjson

MAX_VALUES = 1_000_000
"""Maximum values in a body: a value costs up to a hundred times its bytes while a body is read."""

_MAX_KEPT_DEPTH = 100  # parsers of dead letters allow 128 (serde), 200 (jiter) or 1,000 levels (Python)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\"]++")
_FLAT = re.compile(rb'\{[^{}\[\]"]*+(?:"(?:[^"\\]|\\.)*+"[^{}\[\]"]*+)*+\}', re.DOTALL)
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


class InvalidBodyError(Exception):
    """The body is not JSON, or neither an object nor an array."""


class TooManyRecordsError(Exception):
    """The body holds more records, or more values, than a request may have."""


def check_size(body: bytes, limit: int) -> None:
    """Raise TooManyRecordsError for a body of more than `limit` records or a million values.

    Byte counts suffice for almost every body; only others are split.
    """
    commas = body.count(b",")
    if commas >= MAX_VALUES or body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise TooManyRecordsError(f"Too many values in one request. Maximum is {MAX_VALUES}")
    if commas >= limit and body.lstrip(b" \t\r\n")[:1] == b"[":
        is_clear = body.count(b"{") <= limit and commas < 20 * limit
        if not is_clear:
            _split_array(body, limit)


def split_body(body: bytes, limit: int) -> list[bytes]:
    """Return the records of a body, each as it was sent. Values that only some parsers accept are allowed.

    Raises:
        InvalidBodyError: the body is not JSON, or neither an object nor an array.
        TooManyRecordsError: more than `limit` records.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = _in_words(body, error)
        records = _split(body, limit, message)
        for record in records:
            _check(record, message)
        return records
    if not isinstance(value, dict | list):
        raise InvalidBodyError(f"invalid type: {json_type(value)}, expected an object or an array")
    return _split(body, limit, "")


def _in_words(body: bytes, error: orjson.JSONDecodeError) -> str:
    """Return the error for a body that is not JSON; the parser supports only UTF-8."""
    if body.startswith(b"\x1f\x8b"):
        return "the body is compressed: send Content-Encoding: gzip"
    if body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:2]:
        return "the body is UTF-16 text: send UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError as problem:
        return f"the body is not UTF-8 text, at byte {problem.start}"
    return str(error)


def parse(record: bytes) -> object:
    """Parse a record, with exact integers of any size. Raises ValueError or RecursionError.

    A number with a fraction is a float that keeps its text; see `ExactFloat`.
    """
    return json.loads(record, parse_float=ExactFloat, parse_constant=_refuse_constant)


class ExactFloat(float):
    """A float that keeps its original digits."""

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        """Create it from the text of a JSON number."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def kept_text(record: bytes, identity: str | None) -> str:
    """Return a record as JSON text that every parser accepts, with every digit as it was sent.

    A record that is not an object is put under `value`, and so is, as text, one that some parsers reject:
    NaN, a lone surrogate, nesting beyond 100 levels.
    """
    if _is_common(record):
        text = record.decode()
        return text if text.startswith("{") else f'{{"value":{text}}}'
    kept: dict[str, str] = {} if identity is None else {"id": identity}
    return orjson.dumps(kept | {"value": record.decode("utf-8", "backslashreplace")}).decode()


def _is_common(record: bytes) -> bool:
    brackets = record.count(b"[") + record.count(b"{")
    if brackets > _MAX_KEPT_DEPTH and any(depth > _MAX_KEPT_DEPTH for depth, _ in _depths(record)):
        return False
    try:
        orjson.loads(record)
    except orjson.JSONDecodeError:
        return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _check(record: bytes, message: str) -> None:
    """Raise InvalidBodyError unless this is JSON, or a non-standard form that some JSON writers produce."""
    try:
        json.loads(record.decode())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidBodyError(message) from error
    except (ValueError, RecursionError):
        pass  # thousands of digits or levels: a problem of this record only


def _split(body: bytes, limit: int, message: str) -> list[bytes]:
    start = _after_space(body, 0)
    if body[start : start + 1] == b"[":
        return _split_array(body, limit, message)
    if body[start : start + 1] != b"{":
        raise InvalidBodyError(message)
    end = _end_of_value(body, start, message)
    if _after_space(body, end) != len(body):
        raise InvalidBodyError(message)
    return [body[start:end]]


def _split_array(body: bytes, limit: int, message: str = "not a JSON array") -> list[bytes]:
    records: list[bytes] = []
    position = _after_space(body, _after_space(body, 0) + 1)
    if body[position : position + 1] == b"]":
        position += 1
    else:
        separator = b","
        while separator == b",":
            if len(records) == limit:
                raise TooManyRecordsError(f"Too many records in one request. Maximum is {limit}")
            start = _after_space(body, position)
            end = _end_of_value(body, start, message)
            records.append(body[start:end])
            position = _after_space(body, end) + 1
            separator = body[position - 1 : position]
        if separator != b"]":
            raise InvalidBodyError(message)
    if _after_space(body, position) != len(body):
        raise InvalidBodyError(message)
    return records


def _end_of_value(body: bytes, start: int, message: str) -> int:
    first = body[start : start + 1]
    if first in (b"{", b"["):
        flat = _FLAT.match(body, start)
        return flat.end() if flat else _end_of_nested(body, start, message)
    found = (_STRING if first == b'"' else _SCALAR).match(body, start)
    if found is None:
        raise InvalidBodyError(message)
    return found.end()


def _end_of_nested(body: bytes, start: int, message: str) -> int:
    for depth, end in _depths(body, start):
        if depth == 0:
            return end
    raise InvalidBodyError(message)


def _depths(body: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the depth of nesting after each bracket, and the place after it."""
    depth = 0
    for token in _BRACKETS.finditer(body, start):
        first = body[token.start()]
        if first != b'"'[0]:
            depth += 1 if first in b"[{" else -1
            yield depth, token.end()


def _after_space(body: bytes, position: int) -> int:
    found = _SPACE.match(body, position)
    return found.end() if found else position


def json_type(value: object) -> str:
    """Return JSON's name for the type of a parsed value."""
    names: Mapping[type, str] = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
        list: "array",
        type(None): "null",
    }
    return names.get(type(value), "object")
