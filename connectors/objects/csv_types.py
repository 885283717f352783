"""Types of the columns of a CSV file: declared, or inferred from its first rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Final, Literal, get_args

__all__ = ["CONVERTERS", "INFERRED", "ColumnType", "infer_type"]

ColumnType = Literal["text", "integer", "number", "decimal", "boolean", "date", "timestamp"]

_INTEGER = re.compile(r"[+-]?\d+")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?")
_BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "0"), False
)
_PLAIN_BOOLEAN = frozenset({"true", "false"})
_EXACT_LENGTH = 17
"""Characters of a number of which a float keeps every digit."""


def _all_like(pattern: re.Pattern[str], texts: Sequence[str]) -> None:
    if pattern.fullmatch("\n".join(texts)) is None:
        raise ValueError


def _lines_of(pattern: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern.pattern})(?:\n(?:{pattern.pattern}))*")


_INTEGERS, _NUMBERS, _PLAIN_NUMBERS, _DATES = map(_lines_of, (_INTEGER, _NUMBER, _PLAIN_NUMBER, _DATE))


def _integers(texts: Sequence[str]) -> list[Any]:
    _all_like(_INTEGERS, texts)
    return list(map(int, texts))  # ValueError for what has more digits than Python reads


def _plain_integers(texts: Sequence[str]) -> list[Any]:
    found = list(map(int, texts))
    if list(map(str, found)) != list(texts):
        raise ValueError
    return found


def _numbers(texts: Sequence[str]) -> list[Any]:
    _all_like(_NUMBERS, texts)
    found = list(map(float, texts))
    if math.inf in found or -math.inf in found:
        raise ValueError
    return found


def _plain_numbers(texts: Sequence[str]) -> list[Any]:
    _all_like(_PLAIN_NUMBERS, texts)
    if max(map(len, texts)) > _EXACT_LENGTH:
        raise ValueError
    found = list(map(float, texts))
    # few columns have one of these, and only they need a closer look
    if (0.0 in found or math.inf in found or -math.inf in found) and not all(map(_is_exact, found, texts)):
        raise ValueError
    return found


def _is_exact(number: float, text: str) -> bool:
    """False for what is too large or too small for a float."""
    return math.isfinite(number) and (number != 0 or not re.search("[1-9]", re.split("[eE]", text)[0]))


def _decimals(texts: Sequence[str]) -> list[Any]:
    """The digits as they are written: JSON has no decimals, and a float would round them."""
    _all_like(_NUMBERS, texts)
    return list(texts)


def _booleans(texts: Sequence[str]) -> list[Any]:
    try:
        return [_BOOLEANS[text] for text in texts]
    except KeyError:
        pass
    try:
        return [_BOOLEANS[text.lower()] for text in texts]
    except KeyError:
        raise ValueError from None


def _dates(texts: Sequence[str]) -> list[Any]:
    _all_like(_DATES, texts)
    for text in set(texts):
        date.fromisoformat(text)
    return list(texts)


def _timestamps(texts: Sequence[str]) -> list[Any]:
    return list(map(_timestamp, texts))


def _timestamp(text: str) -> str:
    if _DATE.fullmatch(text):
        return f"{date.fromisoformat(text).isoformat()}T00:00:00"
    if not _TIMESTAMP.fullmatch(text):
        raise ValueError
    moment, fraction, rest = _without_fraction(text.replace(" ", "T", 1))
    seconds = datetime.fromisoformat(moment + rest).isoformat()
    # digits beyond microseconds stay as they are
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
"""What makes values of the texts of a column; each raises ValueError where one of them is none."""

INFERRED: Final = CONVERTERS | {"integer": _plain_integers, "number": _plain_numbers}
"""The same for types that were inferred: no one declared that `007` is a number, or may be rounded."""

assert set(CONVERTERS) == set(get_args(ColumnType))


def infer_type(values: Sequence[str]) -> ColumnType:
    """The narrowest type that all these texts have and that loses nothing of how they are written.

    `007`, `+49` and numbers beyond 64 bits stay text, as do yes and no, and a column without any value.
    """
    if not values:
        return "text"
    if all(_PLAIN_INTEGER.fullmatch(value) for value in values):
        return "integer"
    if all(
        _PLAIN_NUMBER.fullmatch(value) and len(value) <= _EXACT_LENGTH and _is_exact(float(value), value)
        for value in values
    ):
        return "number"
    if all(value.lower() in _PLAIN_BOOLEAN for value in values):
        return "boolean"
    for kind, pattern in (("date", _DATE), ("timestamp", _TIMESTAMP)):
        if all(pattern.fullmatch(value) and _fits(kind, value) for value in values):  # type: ignore[arg-type]
            return kind  # type: ignore[return-value]
    return "text"


def _fits(kind: ColumnType, value: str) -> bool:
    convert = CONVERTERS[kind]
    assert convert is not None
    try:
        convert((value,))
    except ValueError:
        return False
    return True
