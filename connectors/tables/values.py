"""Convert values of a database to JSON, and choose and check types of decimals."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final


def json_value(value: Any) -> Any:
    """Convert a value to JSON.

    Times are ISO 8601 text, bytes are Base64. A decimal is a number if a float has all of its digits, and
    text otherwise.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return {str(name): json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_value(one) for one in value]
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)


def base64_bytes(text: str) -> bytes:
    """Decode Base64, as which sources read bytes."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ValueError("text that is not Base64") from None


_DIGITS: Final = 38
_WHOLE: Final = 10
"""Digits before the point that each column has at least."""

_EXACT: Final = Context(prec=100, traps=[Inexact, InvalidOperation])

_TYPE: Final = re.compile(rf"(DECIMAL\({_DIGITS}, ?)(\d+)\)", re.IGNORECASE)


def decimal_type(sql: str, values: Iterable[Any]) -> str:
    """Return the type with a larger scale if the values have more places, as far as its 38 digits suffice."""
    found = _TYPE.fullmatch(sql)
    decimals = [value for value in values if isinstance(value, Decimal) and value.is_finite()]
    if found is None or not decimals:
        return sql
    scale = max(map(_places, decimals))
    whole = max(_WHOLE, *(value.adjusted() + 1 for value in decimals))
    return f"{found[1]}{scale})" if int(found[2]) < scale <= _DIGITS - whole else sql


def own_scale(sql: str) -> int | None:
    """Return the scale of a type that a sink chooses for decimals; None for other types."""
    found = _TYPE.search(sql)
    return int(found[2]) if found else None


def check_places(value: Any, scale: int) -> None:
    """Raise ValueError if the column would round a decimal, also one given as text."""
    if not isinstance(value, Decimal | str):
        return
    try:
        _EXACT.quantize(Decimal(value), Decimal(1).scaleb(-scale))
    except InvalidOperation:
        return  # no number, or too large for the column: the database refuses it
    except Inexact:
        raise ValueError(
            f"a decimal with more than {scale} places, which only a type declared in `columns` rounds"
        ) from None


def _places(value: Decimal) -> int:
    places = -int(value.as_tuple().exponent)
    if places > 0:  # without trailing zeros
        digits = value.as_tuple().digits
        places -= next((n for n, digit in enumerate(reversed(digits)) if digit), places)
    return max(0, places)
