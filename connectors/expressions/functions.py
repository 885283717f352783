"""The functions of expressions: pure, and bounded in memory and time.

A function of None is None, unless it is in `_ABOUT_NONE`.
The first line of each docstring is its documentation.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Any, Final

import orjson

from connectors.expressions.failures import EvaluationError, kind_of
from connectors.expressions.operators import item_of, limited, text_of
from connectors.expressions.times import parse_date, parse_datetime, show_date
from connectors.json_lines import parse_json

MAX_WIDTH: Final = 1000
MAX_DIGITS: Final = 300
MAX_PATH: Final = 50


def lower(text: Any) -> Any:
    """The text in lower case."""
    if type(text) is str:
        return text.lower()
    return None if text is None else _text("lower", text).lower()


def upper(text: Any) -> Any:
    """The text in upper case."""
    if type(text) is str:
        return text.upper()
    return None if text is None else _text("upper", text).upper()


def title(text: Any) -> Any:
    """The text with a capital at the start of every word."""
    return _text("title", text).title()


def capitalize(text: Any) -> Any:
    """The text with a capital first and the rest in lower case."""
    return _text("capitalize", text).capitalize()


def strip(text: Any, characters: Any = None) -> Any:
    """The text without white space (or these characters) at its ends."""
    return _text("strip", text).strip(characters if characters is None else _text("strip", characters))


def normalize(text: Any) -> Any:
    """The text in Unicode's form NFKC, with every run of white space as one space."""
    text = _text("normalize", text)
    limited(len(text) * 18)  # one character can expand to this many
    return " ".join(unicodedata.normalize("NFKC", text).split())


def replace(text: Any, old: Any, new: Any) -> Any:
    """The text with every `old` replaced by `new`."""
    text, old, new = _text("replace", text), _text("replace", old), _text("replace", new)
    if not old:
        raise EvaluationError("replace: the text to replace is empty")
    limited(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new)


def split(text: Any, separator: Any = None) -> Any:
    """The parts of the text between separators (default: white space), as a list."""
    text = _text("split", text)
    limited(len(text))
    if separator is None:
        return text.split()
    if separator == "":
        raise EvaluationError("split: the separator is empty")
    return text.split(_text("split", separator))


def join(items: Any, separator: Any = "") -> Any:
    """The items of a list as one text with a separator between them; None is left out."""
    separator = _text("join", separator)
    texts = [text_of(one) for one in _items("join", items) if one is not None]
    limited(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def startswith(text: Any, start: Any) -> bool:
    """Whether the text begins with `start`."""
    return start is not None and _text("startswith", text).startswith(_text("startswith", start))


def endswith(text: Any, end: Any) -> bool:
    """Whether the text ends with `end`."""
    return end is not None and _text("endswith", text).endswith(_text("endswith", end))


def zfill(text: Any, width: Any) -> Any:
    """The text (or whole number) with zeros in front, up to a width of at most 1,000."""
    shown = str(text) if isinstance(text, int) and not isinstance(text, bool) else _text("zfill", text)
    return shown.zfill(_small("zfill", width, MAX_WIDTH))


def length(value: Any) -> Any:
    """The number of characters of a text, items of a list or fields of a mapping."""
    if not isinstance(value, str | list | tuple | Mapping):
        raise EvaluationError(f"len: {kind_of(value)} has no length")
    return len(value)


def to_text(value: Any) -> Any:
    """The value as text; true and false as in JSON."""
    return text_of(value)


def to_int(value: Any) -> Any:
    """The value as a whole number; text is read, a fraction is cut off."""
    if isinstance(value, str):
        return _read_int(value)
    _finite("int", value)
    return int(value)


def to_float(value: Any) -> Any:
    """The value as a number; text is read with a decimal point."""
    if isinstance(value, str):
        return _read_number("float", value, ".")
    _finite("float", value)
    return float(value)


def to_bool(value: Any) -> Any:
    """True and false from text (true, yes, y, t, 1, on; false, no, n, f, 0, off, empty) or from a number."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "yes", "y", "1", "on", "t"):
            return True
        if word in ("false", "no", "n", "0", "off", "f", ""):
            return False
        raise EvaluationError("bool: expected true, yes, y, t, 1, on or false, no, n, f, 0, off")
    if not isinstance(value, bool | int | float | Decimal):
        raise EvaluationError(f"bool: {kind_of(value)} is neither true nor false")
    return bool(value)


def number(text: Any, decimal: Any = ".") -> Any:
    """The number in a text such as 1.234,50 € with `decimal=','`, or ($1,234.50), which is negative."""
    if isinstance(text, int | float | Decimal) and not isinstance(text, bool):
        return text
    text = _text("number", text)
    if decimal not in (".", ","):
        raise EvaluationError("number: the decimal mark is '.' or ','")
    if booked := _BOOKED.fullmatch(text.strip()):
        return 0 - _read_number("number", booked[1], decimal)  # of zero, not -0.0
    return _read_number("number", text, decimal)


def _read_number(name: str, text: str, decimal: str) -> int | float:
    if len(text.strip()) > MAX_DIGITS:
        raise EvaluationError(f"{name}: the text is too long for a number")
    found = _NUMBERS[decimal].fullmatch(text.strip())
    if not found or not (found["whole"] or found["fraction"]):
        message = f"{name}: the text is not a number with the decimal mark {decimal!r}"
        if text.rstrip().endswith("-"):
            message += _TRAILING_MINUS.format(decimal)
        raise EvaluationError(message)
    sign, whole, fraction, exponent = found.group("sign", "whole", "fraction", "exponent")
    digits = sign + "".join(mark for mark in whole if mark.isdecimal())
    if fraction is None and exponent is None:
        return int(digits)
    result = float(f"{digits}.{fraction or ''}{exponent or ''}")
    if not math.isfinite(result):
        raise EvaluationError(f"{name}: the number is too large")
    return result


def _numbers(decimal: str, grouping: str) -> re.Pattern[str]:
    """Match a number, optionally grouped by threes (or twos, except the last group)."""
    sign = r"[$\u00a2-\u00a5\u20a0-\u20cf]?"
    marks = f"[{grouping} \u00a0\u202f'\u2019]"
    grouped = rf"\d{{1,3}}(?P<mark>{marks})(?:\d{{2,3}}(?P=mark))*\d{{3}}"
    return re.compile(
        rf"{sign}\s?(?P<sign>[+-]?)\s?{sign}\s?(?P<whole>{grouped}|\d*)"
        rf"(?:[{decimal}](?P<fraction>\d*))?(?P<exponent>[eE][+-]?\d+)?\s?{sign}"
    )


_BOOKED: Final = re.compile(r"\(([^()+-]+)\)")
"""A negative number as in accounts."""

_TRAILING_MINUS: Final = (
    "; with a minus sign at its end, `-number(replace(x, '-', ''), '{0}') if endswith(strip(x), '-') else "
    "number(x, '{0}')` reads it"
)

_NUMBERS: Final = {".": _numbers(".", ","), ",": _numbers(",", ".")}


def round_(value: Any, digits: Any = 0) -> Any:
    """The number rounded to this many decimal places (half to even); without digits, a whole number."""
    _finite("round", value)
    places = _small("round", digits, 30)
    return round(value, places) if places else round(value)


def floor(value: Any) -> Any:
    """The whole number at or below."""
    _finite("floor", value)
    return math.floor(value)


def ceil(value: Any) -> Any:
    """The whole number at or above."""
    _finite("ceil", value)
    return math.ceil(value)


def abs_(value: Any) -> Any:
    """The number without its sign."""
    _finite("abs", value)
    return abs(value)


def min_(*values: Any) -> Any:
    """The least of a list or of the arguments; None is left out."""
    return _extreme("min", min, values)


def max_(*values: Any) -> Any:
    """The greatest of a list or of the arguments; None is left out."""
    return _extreme("max", max, values)


def sum_(items: Any) -> Any:
    """The sum of a list of numbers; None is left out, an empty list gives 0."""
    total: Any = 0
    for one in _items("sum", items):
        if one is not None:
            _finite("sum", one)
            total += one
    return total


def any_(items: Any) -> Any:
    """Whether something in the list is true."""
    return any(_items("any", items))


def all_(items: Any) -> Any:
    """Whether everything in the list is true."""
    return all(_items("all", items))


def first(items: Any) -> Any:
    """The first item of a list; None of an empty one."""
    items = _items("first", items)
    return items[0] if items else None


def last(items: Any) -> Any:
    """The last item of a list; None of an empty one."""
    items = _items("last", items)
    return items[-1] if items else None


def unique(items: Any) -> Any:
    """The items of a list without repetitions, in order."""
    return list({_identity(one): one for one in reversed(_items("unique", items))}.values())[::-1]


def sorted_(items: Any) -> Any:
    """The items of a list in order, without None."""
    try:
        return sorted(one for one in _items("sorted", items) if one is not None)
    except TypeError:
        raise EvaluationError("sorted: the items cannot be compared with each other") from None


def keys(value: Any) -> Any:
    """The names of a mapping's fields, as a list."""
    return list(_mapping("keys", value))


def values(value: Any) -> Any:
    """The values of a mapping's fields, as a list."""
    return list(_mapping("values", value).values())


def get(value: Any, path: Any, default: Any = None) -> Any:
    """The value at a path such as 'customer.address.0.city'; the default where there is none."""
    steps = _text("get", path).split(".")
    if len(steps) > MAX_PATH:
        raise EvaluationError(f"get: the path has more than {MAX_PATH} steps")
    for step in steps:
        if isinstance(value, list | tuple):
            value = (
                item_of(value, int(step)) if step.isascii() and step.isdecimal() and len(step) < 10 else None
            )
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
    return default if value is None else value


def coalesce(*values: Any) -> Any:
    """The first of the arguments that is not None."""
    return next((one for one in values if one is not None), None)


def type_of(value: Any) -> str:
    """What the value is: null, boolean, number, text, list, mapping or other."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = ((int | float | Decimal, "number"), (str, "text"), (list | tuple, "list"), (Mapping, "mapping"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "other")


def from_json(text: Any) -> Any:
    """The value of a JSON text."""
    text = _text("from_json", text)
    limited(len(text))
    try:
        return parse_json(text)
    except ValueError:
        raise EvaluationError("from_json: the text is not JSON") from None


def to_json(value: Any) -> Any:
    """The value as JSON text."""
    try:
        shown = orjson.dumps(value).decode()
    except (TypeError, UnicodeDecodeError):
        raise EvaluationError("to_json: the value cannot be written as JSON") from None
    limited(len(shown))
    return shown


def sha256(value: Any) -> Any:
    """The SHA-256 of the value's text, 64 hexadecimal digits."""
    return text_digest(value)


def uuid_of(value: Any) -> Any:
    """A UUID that is always the same for the same text (version 5)."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text_of(value)))


def text_digest(value: Any) -> str:
    """The SHA-256 of a value's text (of its JSON if it is a list or mapping), in hex."""
    shown = to_json(value) if isinstance(value, Mapping | list | tuple) else text_of(value)
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{name}: expected text, got {kind_of(value)}")
    return value


def _items(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise EvaluationError(f"{name}: expected a list, got {kind_of(value)}")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EvaluationError(f"{name}: expected a mapping, got {kind_of(value)}")
    return value


def _small(name: str, value: Any, most: int) -> int:
    if not isinstance(value, int) or not -most <= value <= most:
        raise EvaluationError(f"{name}: expected a whole number up to {most}")
    return value


def _finite(name: str, value: Any) -> None:
    """Refuse non-numbers, and numbers whose digits would be very long."""
    if isinstance(value, int):
        return
    if not isinstance(value, float | Decimal):
        raise EvaluationError(f"{name}: expected a number, got {kind_of(value)}")
    if not math.isfinite(value) or (isinstance(value, Decimal) and abs(value.adjusted()) > MAX_DIGITS):
        raise EvaluationError(f"{name}: the number is too large")


def _read_int(text: str) -> int:
    plain = text.strip()
    if len(plain) > MAX_DIGITS:
        raise EvaluationError("int: the text is too long for a number")
    if "_" in plain:  # of Python's own, as in 1_000
        raise EvaluationError("int: the text is not a number")
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        value = Decimal(plain)
    except InvalidOperation:
        raise EvaluationError("int: the text is not a number") from None
    _finite("int", value)
    return int(value)


def _extreme(name: str, choose: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    items = _items(name, given[0]) if len(given) == 1 else given
    there = [one for one in items if one is not None]
    try:
        return choose(there) if there else None
    except TypeError:
        raise EvaluationError(f"{name}: the items cannot be compared with each other") from None


def _identity(value: Any) -> Any:
    """Return the identity of an item: equal JSON is the same item."""
    return (type(value), value) if isinstance(value, str | int | float | None) else to_json(value)


def _none_of_none(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it returns None if its first argument is None."""

    @wraps(function)  # calls are checked against its signature
    def call(value: Any, *arguments: Any, **named: Any) -> Any:
        return None if value is None else function(value, *arguments, **named)

    return call


_ABOUT_NONE: Final[Mapping[str, Callable[..., Any]]] = {
    "lower": lower,  # these two check for None themselves, for speed: nearly every pipeline uses them
    "upper": upper,
    "coalesce": coalesce,
    "type_of": type_of,
    "min": min_,
    "max": max_,
    "get": get,
}

_OF_A_VALUE: Final[Mapping[str, Callable[..., Any]]] = {
    "title": title, "capitalize": capitalize, "strip": strip,
    "normalize": normalize, "replace": replace, "split": split, "join": join, "startswith": startswith,
    "endswith": endswith, "zfill": zfill, "len": length, "str": to_text, "int": to_int, "float": to_float,
    "bool": to_bool, "number": number, "round": round_, "floor": floor, "ceil": ceil, "abs": abs_,
    "sum": sum_, "any": any_, "all": all_, "first": first, "last": last, "unique": unique,
    "sorted": sorted_, "keys": keys, "values": values, "from_json": from_json, "to_json": to_json,
    "sha256": sha256, "uuid": uuid_of, "date": parse_date, "datetime": parse_datetime,
    "format_date": show_date,
}  # fmt: skip

FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _none_of_none(function) for name, function in _OF_A_VALUE.items()},
    **_ABOUT_NONE,
}
"""Every function by its name in expressions (`matches` is built into the compiler)."""
