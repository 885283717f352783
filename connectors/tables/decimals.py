"""Decimal columns of a table sink: their scale, and the values that they would round."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final

__all__ = ["check_places", "decimal_type", "own_scale"]

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
