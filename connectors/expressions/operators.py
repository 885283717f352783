"""The operators of expressions: Python's, with one meaning of None and with bounds.

A missing field is None. Arithmetic with None gives None, None is never less or greater than anything, and it
contains nothing. Text and numbers cannot grow beyond `MAX_TEXT` and `MAX_BITS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel

from connectors.expressions.failures import EvaluationError, kind_of

MAX_TEXT: Final = 1_000_000
"""Maximum characters of a text result."""
MAX_BITS: Final = 4096
"""Maximum bits of an integer result."""
MAX_ITEMS: Final = 10_000
"""Maximum items of a comprehension."""
MAX_EXPONENT: Final = 1000

_INFINITE: Final = (math.inf, -math.inf)
_NUMBERS: Final = (int, float, Decimal)
_PLAIN_NUMBERS: Final = frozenset({int, float})
_SEQUENCES: Final = (str, list, tuple, bytes)


def limited(length: int) -> None:
    """Refuse to make a text of more than `MAX_TEXT` characters."""
    if length > MAX_TEXT:
        raise EvaluationError(f"the result would have more than {MAX_TEXT:,} characters")


def add(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    kind = type(left)
    if kind is not float and kind is not int and isinstance(left, _SEQUENCES):
        limited(len(left) + (len(right) if isinstance(right, _SEQUENCES) else 0))
    try:
        result = left + right
    except TypeError:
        raise _unfit("add", left, right) from None
    return result if result not in _INFINITE else _overflown(left, right, result)


def _overflown(left: Any, right: Any, result: Any) -> Any:
    """Refuse an infinite result of finite operands: JSON would write it as null."""
    if left in _INFINITE or right in _INFINITE:
        return result
    raise EvaluationError("the result is larger than a number can be")


def subtract(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    try:
        result = left - right
    except TypeError:
        raise _unfit("subtract", left, right) from None
    return result if result not in _INFINITE else _overflown(left, right, result)


def multiply(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    if type(left) not in _PLAIN_NUMBERS or type(right) not in _PLAIN_NUMBERS:
        _numbers("multiply", left, right)  # Python would repeat a text or a list to any length
    try:
        result = left * right
    except TypeError:
        raise _unfit("multiply", left, right) from None
    if type(result) is int and result.bit_length() > MAX_BITS:
        raise EvaluationError(f"the result would have more than {MAX_BITS} bits")
    return result if result not in _INFINITE else _overflown(left, right, result)


def divide(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    try:
        result = left / right
    except TypeError:
        raise _unfit("divide", left, right) from None
    return result if result not in _INFINITE else _overflown(left, right, result)


def floor_divide(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    _numbers("divide", left, right)
    return left // right


def modulo(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    _numbers("divide", left, right)  # `%` of a text would format it, to any width
    return left % right


def power(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    _numbers("raise", left, right)
    if abs(right) > MAX_EXPONENT:
        raise EvaluationError(f"the exponent is larger than {MAX_EXPONENT}")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
        raise EvaluationError(f"the result would have more than {MAX_BITS} bits")
    try:
        result = left**right
    except TypeError:
        raise _unfit("raise", left, right) from None
    if isinstance(result, complex):
        raise EvaluationError("a root of a negative number is not a number")
    return result


def negative(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, _NUMBERS):
        raise EvaluationError(f"cannot negate {kind_of(value)}")
    return -value


def positive(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, _NUMBERS):
        raise EvaluationError(f"{kind_of(value)} has no sign")
    return value


def less(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    try:
        return bool(left < right)
    except TypeError:
        raise _incomparable(left, right) from None


def less_equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    try:
        return bool(left <= right)
    except TypeError:
        raise _incomparable(left, right) from None


def greater(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    try:
        return bool(left > right)
    except TypeError:
        raise _incomparable(left, right) from None


def greater_equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    try:
        return bool(left >= right)
    except TypeError:
        raise _incomparable(left, right) from None


def contains(item: Any, container: Any) -> bool:
    if container is None:
        return False
    if isinstance(container, str):
        if item is None:
            return False
        if not isinstance(item, str):
            raise EvaluationError(f"cannot look for {kind_of(item)} in text")
        return item in container
    if isinstance(container, Mapping):
        return isinstance(item, str) and item in container
    if isinstance(container, list | tuple):
        return item in container
    raise EvaluationError(f"cannot look for something in {kind_of(container)}")


def item_of(value: Any, key: Any) -> Any:
    """Return `value[key]`, or None if it does not exist."""
    if value is None or key is None:
        return None
    if isinstance(value, Mapping):
        return value.get(key) if isinstance(key, str | int) else None
    if isinstance(value, str | list | tuple):
        if not isinstance(key, int):
            raise EvaluationError(f"{kind_of(value)} has positions (numbers from 0), not fields")
        return value[key] if -len(value) <= key < len(value) else None
    if isinstance(value, BaseModel) and isinstance(key, str):
        return getattr(value, key) if key in type(value).model_fields else None
    raise EvaluationError(f"{kind_of(value)} has no fields")


def slice_of(value: Any, start: Any, stop: Any) -> Any:
    """Return `value[start:stop]`; None of None."""
    if value is None:
        return None
    if not isinstance(value, str | list | tuple):
        raise EvaluationError(f"cannot slice {kind_of(value)}")
    for place in (start, stop):
        if place is not None and not isinstance(place, int):
            raise EvaluationError("the positions of a slice are whole numbers")
    return value[start:stop]


def text_of(value: Any) -> str:
    """Convert a value for a template: None is empty, true and false are as in JSON."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple | BaseModel):
        raise EvaluationError(f"cannot put {kind_of(value)} into text; write to_json(…)")
    _printable(value)
    return str(value)


def formatted(value: Any, spec: str) -> str:
    """Format a value with a specification that the compiler has checked."""
    if value is None:
        return ""
    if not isinstance(value, str | int | float | Decimal):
        raise EvaluationError(f"cannot format {kind_of(value)}")
    _printable(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError, OverflowError):
        raise EvaluationError(f"cannot format {kind_of(value)} as {spec!r}") from None


def joined(*parts: str) -> str:
    """Join the parts of a template."""
    limited(sum(map(len, parts)))
    return "".join(parts)


def iterated(value: Any) -> Iterator[Any]:
    """Return the items that a comprehension iterates over; none for None."""
    if value is None:
        return iter(())
    if not isinstance(value, list | tuple | Mapping):
        raise EvaluationError(f"cannot go through the items of {kind_of(value)}")
    if len(value) > MAX_ITEMS:
        raise EvaluationError(f"there are more than {MAX_ITEMS:,} items to go through")
    return iter(value)


def collected(items: Iterable[Any]) -> list[Any]:
    """Return the results of a comprehension, limiting the total length of texts."""
    made: list[Any] = []
    length = 0
    for one in items:
        length += _length(one)
        limited(length)
        made.append(one)
    return made


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(map(_length, value))
    if isinstance(value, dict):
        return len(value) + sum(map(_length, value.values()))
    return 1


def _numbers(verb: str, left: Any, right: Any) -> None:
    if not (isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS)):
        raise _unfit(verb, left, right)


def _unfit(verb: str, left: Any, right: Any) -> EvaluationError:
    return EvaluationError(f"cannot {verb} {kind_of(left)} and {kind_of(right)}")


def _incomparable(left: Any, right: Any) -> EvaluationError:
    return EvaluationError(f"cannot compare {kind_of(left)} with {kind_of(right)}")


def _printable(value: Any) -> None:
    """Refuse numbers with too many digits to print."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > MAX_EXPONENT:
        raise EvaluationError("the number has too many digits")
    if isinstance(value, int) and value.bit_length() > MAX_BITS * 2:
        raise EvaluationError("the number has too many digits")


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "Add": add,
    "Sub": subtract,
    "Mult": multiply,
    "Div": divide,
    "FloorDiv": floor_divide,
    "Mod": modulo,
    "Pow": power,
    "USub": negative,
    "UAdd": positive,
    "Lt": less,
    "LtE": less_equal,
    "Gt": greater,
    "GtE": greater_equal,
    "In": contains,
    "Item": item_of,
    "Slice": slice_of,
    "Text": text_of,
    "Format": formatted,
    "Join": joined,
    "Iterate": iterated,
    "Collect": collected,
}
"""The operators by the names of their syntax nodes, and the compiler's helpers."""
