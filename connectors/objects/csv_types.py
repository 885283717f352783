"""Types of CSV columns, declared or inferred from the first rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, get_args

import orjson

ColumnType = Literal["text", "integer", "number", "decimal", "boolean", "date", "timestamp"]

_INTEGER = re.compile(r"[+-]?\d+")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
_LONG_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_CODE = re.compile(r"\d+E\d+", re.ASCII)
"""A code such as 12E5: programs write numbers of this size with a sign or a fraction, 1.2E+06."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?")
_COMMON_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|(?!-00:00)[+-]\d\d:[0-5]\d)?",
    re.ASCII,
)
"""Formats that differ from ISO 8601 only in spelling."""

_BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "0"), False
)
_PLAIN_BOOLEAN = frozenset({"true", "false"})
_COMMON: Final[dict[frozenset[ColumnType], ColumnType]] = {
    frozenset(("integer", "number")): "number",
    frozenset(("date", "timestamp")): "timestamp",  # pandas writes times at midnight as dates
}
_EXACT_LENGTH = 15
"""Number of digits that a float always keeps. Longer numbers are checked one by one."""

_MAX_NUMBER = 17
"""Maximum characters of a number whose digits a float may keep."""

_MARKED: Final = bytes(ord(",") if byte == ord(",") else ord("0") for byte in range(256))
_LONG: Final = b"0" * (_EXACT_LENGTH + 1)
_INTEGER_ALONE: Final = frozenset({int})
_INTEGER_OR_FLOAT: Final = frozenset({int, float})


def _all_like(pattern: re.Pattern[str], texts: Sequence[str]) -> None:
    lines = "\n".join(texts)
    # a text that contains a line end is not two texts
    if pattern.fullmatch(lines) is None or lines.count("\n") >= len(texts):
        raise ValueError


def _lines_of(pattern: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern.pattern})(?:\n(?:{pattern.pattern}))*")


_INTEGERS, _NUMBERS, _DATES, _COMMON_TIMESTAMPS = map(
    _lines_of, (_INTEGER, _NUMBER, _DATE, _COMMON_TIMESTAMP)
)


def _integers(texts: Sequence[str]) -> list[Any]:
    _all_like(_INTEGERS, texts)
    return list(map(int, texts))  # ValueError: more digits than Python parses


def _json_numbers(texts: Sequence[str], kinds: frozenset[type]) -> tuple[list[Any], bytes] | None:
    """Parse numbers of these types; return them with their texts, or None if a text is not a number.

    JSON's numbers have the form of `_PLAIN_NUMBER`, and are parsed in one call.
    """
    text = ",".join(texts).encode("utf-8", "replace")
    if any(blank in text for blank in b" \t\n\r"):
        return None
    try:
        found: list[Any] = orjson.loads(b"[%b]" % text)
    except orjson.JSONDecodeError:
        return None
    # a text may contain a comma
    return (found, text) if len(found) == len(texts) and kinds.issuperset(map(type, found)) else None


def _plain_integers(texts: Sequence[str]) -> list[Any]:
    """Return integers, and floats where later rows have decimals: all of them are numbers."""
    fast = _json_numbers(texts, _INTEGER_ALONE)
    if fast is not None and b"-0" not in fast[1]:
        return fast[0]
    return [int(text) if _LONG_INTEGER.fullmatch(text) else _plain_numbers((text,))[0] for text in texts]


def _numbers(texts: Sequence[str]) -> list[Any]:
    _all_like(_NUMBERS, texts)
    found = list(map(float, texts))
    if math.inf in found or -math.inf in found:
        raise ValueError
    return found


def _plain_numbers(texts: Sequence[str]) -> list[Any]:
    fast = _json_numbers(texts, _INTEGER_OR_FLOAT)
    if fast is None:
        raise ValueError
    found = list(map(float, texts if b"-0" in fast[1] else fast[0]))
    # few columns have one of these characters, and only they need a closer check
    looked_at = _LONG in fast[1].translate(_MARKED) or b"e" in fast[1] or b"E" in fast[1]
    if looked_at and not all(map(_is_exact, found, texts)):
        raise ValueError
    return found


def _is_exact(number: float, text: str) -> bool:
    """Return whether a text is a number whose every digit a float keeps."""
    if len(text) <= _EXACT_LENGTH and "e" not in text.lower():
        return True
    exact = len(text) <= _MAX_NUMBER and math.isfinite(number) and not _CODE.fullmatch(text)
    return exact and Decimal(repr(number)) == Decimal(text)


def _decimals(texts: Sequence[str]) -> list[Any]:
    """Return decimals as text: JSON has no decimals, and a float would round them."""
    _all_like(_NUMBERS, texts)
    return list(texts)


def _booleans(texts: Sequence[str]) -> list[Any]:
    try:
        return list(map(_BOOLEANS.__getitem__, texts))
    except KeyError:
        pass
    try:
        return [_BOOLEANS[text.lower()] for text in texts]
    except KeyError:
        raise ValueError from None


def _dates(texts: Sequence[str]) -> list[Any]:
    distinct = set(texts)
    _all_like(_DATES, list(distinct))
    for text in distinct:
        date.fromisoformat(text)
    return list(texts)


def _timestamps(texts: Sequence[str]) -> list[Any]:
    text = "\n".join(texts)
    if _COMMON_TIMESTAMPS.fullmatch(text) is None:
        return list(map(_timestamp, texts))
    list(map(datetime.fromisoformat, texts))  # ValueError: not in the calendar
    return text.replace(" ", "T").replace(",", ".").replace("Z", "+00:00").split("\n")


def _timestamp(text: str) -> str:
    if _DATE.fullmatch(text):
        return f"{date.fromisoformat(text).isoformat()}T00:00:00"
    if not _TIMESTAMP.fullmatch(text):
        raise ValueError
    moment, fraction, rest = _without_fraction(text.replace(" ", "T", 1))
    seconds = datetime.fromisoformat(moment + rest).isoformat()
    # digits beyond microseconds are kept
    return seconds if not fraction else f"{seconds[:19]}.{fraction}{seconds[19:]}"


def _without_fraction(text: str) -> tuple[str, str, str]:
    found = re.search(r"[.,](\d+)", text)
    if found is None:
        return text, "", ""
    return text[: found.start()], found[1], text[found.end() :]


Convert = Callable[[Sequence[str]], list[Any]]

CONVERTERS: Final[dict[ColumnType, Convert | None]] = {
    "text": None,
    "integer": _integers,
    "number": _numbers,
    "decimal": _decimals,
    "boolean": _booleans,
    "date": _dates,
    "timestamp": _timestamps,
}
"""Functions that convert the texts of a column; each raises ValueError for an invalid one."""

INFERRED: Final = CONVERTERS | {"integer": _plain_integers, "number": _plain_numbers}
"""The same for inferred types, where `007` must not become a number, nor be rounded."""

assert set(CONVERTERS) == set(get_args(ColumnType))


def infer_type(values: Sequence[str]) -> ColumnType:
    """Return the narrowest type of these texts that preserves their spelling.

    `007`, `+49`, numbers beyond 64 bits, yes and no stay text, and so does a column without values.
    """
    if not values:
        return "text"
    if all(_PLAIN_INTEGER.fullmatch(value) for value in values):
        return "integer"
    if all(_PLAIN_NUMBER.fullmatch(value) and _is_exact(float(value), value) for value in values):
        return "number"
    if all(value.lower() in _PLAIN_BOOLEAN for value in values):
        return "boolean"
    for kind, pattern in (("date", _DATE), ("timestamp", _TIMESTAMP)):
        if all(map(pattern.fullmatch, values)) and takes(kind, values):  # type: ignore[arg-type]
            return kind  # type: ignore[return-value]
    return "text"


def common_type(one: ColumnType, other: ColumnType) -> ColumnType:
    """Return the inferred type that takes the values of both."""
    return one if one == other else _COMMON.get(frozenset((one, other)), "text")


def takes(kind: ColumnType, values: Sequence[str]) -> bool:
    """Return whether a column of this inferred type takes all of these texts."""
    convert = INFERRED[kind]
    try:
        return convert is None or bool(convert(values))
    except ValueError:
        return False
