"""Columns of Pydantic models: SQL types of fields, values that fit, and what a model asks of stored ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, cast, get_args, get_origin
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.fields import FieldInfo

from engine.contract.plain import has_sets, with_sets_in_order
from engine.service.wire_types import is_nullable, unwrapped

JSON = "JSON"
"""The SQL type of values without a more specific type."""

AS_TEXT = "CAST({0} AS VARCHAR)"
"""SQL for `Column.compared` of values with one spelling."""

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its SQL type, and the conversion of Python values (None: unchanged).

    `was_quoted` marks text that the warehouse's second format kept as JSON. `asked` converts a queried text
    to the stored text of the same value. `compared` is SQL over `{0}`, a stored value or a text that a client
    sent, that is equal for all spellings of a value.
    """

    name: str
    sql_type: str
    convert: Callable[[Any], object] | None = None
    was_quoted: bool = False
    asked: Callable[[str], str] | None = None
    compared: str = AS_TEXT

    def stored(self, value: Any) -> object:
        """Return the value as it is stored. Raises one of `ENCODING_ERRORS` if it cannot be converted."""
        return value if value is None or self.convert is None else self.convert(value)


def columns_of(model: type[BaseModel]) -> list[Column]:
    """Return the columns of a model's rows, in field order."""
    fields = model.model_fields.items()
    return [
        _column(name, info.annotation, model.model_config)
        for name, info in fields
        if info.exclude is not True
    ]


def fits(sql_type: str, value: Any) -> bool:
    """Return whether a converted value fits a column of this type."""
    if value is None:
        return True
    if sql_type.endswith("[]"):
        return isinstance(value, list) and all(fits(sql_type[:-2], item) for item in value)
    return _FITS[sql_type](value)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


_FITS: dict[str, Callable[[Any], bool]] = {
    "VARCHAR": _is_text,
    JSON: _is_text,
    "BIGINT": lambda value: type(value) is int and value in _INT64,
    "DOUBLE": _is_number,
    "BOOLEAN": lambda value: isinstance(value, bool),
    "DATE": lambda value: isinstance(value, date) and not isinstance(value, datetime),
    "TIMESTAMP": lambda value: isinstance(value, datetime) and value.tzinfo is None,
}

_NUMBER = "(TRY_CAST({0} AS DOUBLE) + 0)"  # without the sign of a negative zero
# decimals of any length are equal if both their magnitudes and their digits are
_DECIMAL = f"{_NUMBER} || ' ' || trim(regexp_replace({{0}}, '[Ee].*|[^0-9]', '', 'g'), '0')"
UUID_TEXT = "coalesce(CAST(TRY_CAST({0} AS UUID) AS VARCHAR), {0})"
"""SQL for `Column.compared` of UUIDs, which is also their stored text; other texts are unchanged."""

_SCALARS: dict[object, tuple[str, Callable[[Any], object] | None]] = {
    str: ("VARCHAR", None),
    int: ("BIGINT", None),
    float: ("DOUBLE", None),
    bool: ("BOOLEAN", None),
    date: ("DATE", None),
    # UTC without a zone: fetching TIMESTAMPTZ needs a time-zone library, and everything here is UTC.
    datetime: ("TIMESTAMP", lambda value: value.astimezone(UTC).replace(tzinfo=None)),
    Decimal: ("VARCHAR", str),
}
_COMPARED: dict[object, str] = {float: _NUMBER, Decimal: _DECIMAL}


def _column(name: str, annotation: Any, config: ConfigDict) -> Column:
    annotation, _ = unwrapped(annotation)
    if annotation in _SCALARS:
        return Column(name, *_SCALARS[annotation], compared=_COMPARED.get(annotation, AS_TEXT))
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(type(part) is str for part in parts):
        return Column(name, "VARCHAR")
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        texts = all(isinstance(member.value, str) for member in annotation)
        return Column(name, "VARCHAR", _value_of) if texts else Column(name, JSON, _as_json)
    if annotation is UUID:
        return Column(name, "VARCHAR", str, was_quoted=True, asked=_as_stored(UUID, str), compared=UUID_TEXT)
    if origin is list:
        inner = _column(name, parts[0], config)
        if inner.convert is None:
            return Column(name, f"{inner.sql_type}[]")
    if _is_text_type(annotation):
        convert = _as_text(annotation, config)
        return Column(name, "VARCHAR", convert, was_quoted=True, asked=_as_stored(annotation, convert))
    return Column(name, JSON, _with_sets if has_sets(annotation) else _as_json)


def _value_of(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _is_text_type(annotation: Any) -> bool:
    """Whether every value of the type is a string in JSON: times, addresses, paths, bytes."""
    try:
        schema = TypeAdapter(annotation).json_schema(mode="serialization")
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return False
    return schema.get("type") == "string" and "contentMediaType" not in schema


def _as_text(annotation: Any, config: ConfigDict) -> Callable[[Any], object]:
    of_bytes = ConfigDict(ser_json_bytes=config.get("ser_json_bytes", "utf8"))
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=of_bytes if annotation is bytes else None)

    def convert(value: Any) -> object:
        if type(value) is str:
            return value
        return adapter.dump_python(value, mode="json", warnings=False)

    return convert


def _as_stored(annotation: Any, convert: Callable[[Any], object]) -> Callable[[str], str]:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def asked(text: str) -> str:
        try:
            return str(convert(adapter.validate_strings(text)))
        except (ValueError, ArithmeticError):  # the latter for times beyond the calendar in UTC
            return text

    return asked


# infinities are kept, to be rejected: by default they would become null
_ANYTHING: TypeAdapter[object] = TypeAdapter(object, config=ConfigDict(ser_json_inf_nan="constants"))


def spelling_of(annotation: Any, column: Column) -> Callable[[str], str] | None:
    """Return what gives all spellings of a value that a client may send the text of the stored value.

    None if each text is a value of its own. Texts that are no value of the type are unchanged.
    """
    annotation, _ = unwrapped(annotation)
    if column.asked is not None:
        return column.asked
    if annotation in _SCALARS and annotation is not str:
        return _as_stored(annotation, column.stored)
    return None


def _as_json(value: object) -> str:
    """Return the value as JSON text, with exact integers of any size.

    Raises ValueError for NaN and infinities, which JSON lacks; null would be another value.
    """
    try:
        text = orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # mostly an integer beyond 64 bits
        return _exactly(value)
    return _exactly(value) if b"null" in text else text.decode()


def _exactly(value: object) -> str:
    return _written(_ANYTHING.dump_python(value, mode="json"))


def _with_sets(value: object) -> str:
    """Return the value as JSON text, with sets in the same order in every process. Raises like `_as_json`."""
    return _written(with_sets_in_order(value, _ANYTHING.dump_python(value, mode="json")))


def _written(plain: object) -> str:
    return json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    return _ANYTHING.dump_python(value, mode="json")


_BOUNDS = {"ge": "{0} >= {1}", "gt": "{0} > {1}", "le": "{0} <= {1}", "lt": "{0} < {1}"}
_LENGTHS = {"min_length": "length({0}) >= {1}", "max_length": "length({0}) <= {1}"}


def allowed_by(field: FieldInfo) -> tuple[str, ...]:
    """Return conditions over `{0}`, a stored value, for the listed texts, bounds and lengths of a field."""
    annotation, metadata = unwrapped(field.annotation)
    texts = _listed(annotation)
    if texts:
        return (f"{{0}} IN ({', '.join(map(_quoted, texts))})",)
    known = _BOUNDS if annotation in (int, float) else _LENGTHS if annotation is str else {}
    limits = [
        (sql, getattr(one, name, None)) for one in (*field.metadata, *metadata) for name, sql in known.items()
    ]
    return tuple(
        sql.format("{0}", limit)
        for sql, limit in limits
        if isinstance(limit, int | float) and abs(limit) < 2**63
    )


def takes_null(field: FieldInfo) -> bool:
    """Return whether rows may have null in this field; also if only code of the user could tell."""
    if is_nullable(field.annotation) or any(hasattr(one, "func") for one in field.metadata):
        return True
    try:
        TypeAdapter(cast(Any, field.annotation)).validate_python(None)
    except ValidationError:
        return False
    except Exception:  # noqa: BLE001 - a type of the user's own, which a model may know how to read
        return True
    return True


def _listed(annotation: Any) -> list[str]:
    values: list[Any] = []
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        values = [member.value for member in annotation]
    return values if all(type(one) is str for one in values) else []


def _quoted(value: str) -> str:
    escaped = value.replace("'", "''").replace("{", "{{").replace("}", "}}")
    return f"'{escaped}'"
