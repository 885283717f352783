"""Columns for records: which ones a table needs, and the values for each.

Pure functions: the database's connector names its types and executes the changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cached_property
from itertools import chain
from typing import Any, Final, TypeAlias
from uuid import UUID

import orjson
from pydantic import BaseModel

from connectors.json_lines import dump_line, dump_together, plain
from connectors.tables.values import base64_bytes, check_places, decimal_type, json_value, own_scale
from engine.contract.types import Record
from engine.errors import RecordError

MAX_COLUMNS: Final = 500
"""Maximum columns for adding more. Larger numbers come from objects whose field names are data."""

Row: TypeAlias = Mapping[str, Any]


class ValueType(StrEnum):
    """The type of a column's values, independent of the database."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    FLOAT = "float"
    NUMERIC = "numeric"
    TEXT = "text"
    JSON = "json"
    TIMESTAMP = "timestamp"
    DATE = "date"
    BYTES = "bytes"
    OTHER = "other"
    """A type whose valid values only the database knows."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `bits`: the size of an integer; `default`: the table fills in what is missing."""

    name: str
    type: ValueType
    sql: str
    bits: int = 64
    default: bool = False


@dataclass(frozen=True)
class Dialect:
    """A database's names of types and rules for names.

    Args:
        database: name in messages.
        types: SQL types of new columns.
        integers: bits of the SQL types of integers, in upper case.
        known: other SQL types of existing columns, in upper case; the rest is OTHER.
        fold: names with equal folded forms are the same column.
        max_name: maximum length of a column name, in bytes; 0 for no limit.
        reserved: names of built-in columns of every table.
        array: writes a list for a column of an array type, given that type (`text[]`); None: as JSON.
    """

    database: str
    types: Mapping[ValueType, str]
    integers: Mapping[str, int]
    known: Mapping[ValueType, Sequence[str]]
    fold: Callable[[str], str] = str
    max_name: int = 0
    reserved: frozenset[str] = frozenset()
    array: Callable[[str, Sequence[Any]], str] | None = None

    def column(self, name: str, sql: str, *, default: bool = False) -> Column:
        """Return an existing or declared column."""
        plain = sql.upper().partition("(")[0].strip()
        if plain in self.integers:
            return Column(name, ValueType.INTEGER, sql, self.integers[plain], default)
        of_array = sql.endswith("[]")  # also with a length or precision: `numeric(9,2)[]`
        kinds = (kind for kind, known in self.known.items() if plain in known and not of_array)
        return Column(name, next(kinds, ValueType.OTHER), sql, default=default)

    def refusal(self, name: str) -> str:
        """Return why no column can have this name; "" if it is valid."""
        if not name:
            return "it is empty"
        if "\0" in name:
            return "it has a null character"
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            return "it is not valid Unicode"
        if 0 < self.max_name < size:
            return f"it is longer than {self.max_name} bytes"
        return "every table has such a column already" if name in self.reserved else ""


@dataclass
class Changes:
    """Changes that a table needs for some rows: columns to add, and integers to turn into floats."""

    added: list[Column] = field(default_factory=list)
    widened: list[Column] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.widened)


class _Dicts(list[dict[str, Any]]):
    """Rows that are all dictionaries: their names and columns are looked up once."""

    @cached_property
    def layouts(self) -> Collection[tuple[str, ...]]:
        first = tuple(self[0]) if self else ()
        # no row has a name twice, so in such a sequence of names each begins with the first
        if list(chain.from_iterable(self)) == [*first] * len(self):
            return (first,) if self else ()
        return dict.fromkeys(map(tuple, self))

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The values by name if all rows have the same names in the same order; else empty."""
        if len(self.layouts) != 1:
            return {}
        (names,) = self.layouts
        values = list(chain.from_iterable(map(dict.values, self)))
        return {name: values[at :: len(names)] for at, name in enumerate(names)}


def rows_of(records: Sequence[Record]) -> Sequence[Row]:
    """Return the fields of each record."""
    if set(map(type, records)) <= {dict}:
        return _Dicts(records)
    return [record.model_dump() if isinstance(record, BaseModel) else record for record in records]


def names_of(rows: Iterable[Row]) -> list[str]:
    """Return all field names, in order of appearance."""
    names: dict[str, None] = {}
    for layout in rows.layouts if isinstance(rows, _Dicts) else dict.fromkeys(map(tuple, rows)):
        names.update(dict.fromkeys(layout))
    return list(names)


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    if isinstance(rows, _Dicts) and rows.columns:
        return rows.columns[name]
    return [row.get(name) for row in rows]


def by_column(names: Iterable[str], dialect: Dialect) -> dict[str, list[str]]:
    """Group names of the same column by their folded form."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(dialect.fold(name), []).append(name)
    return groups


def shown(name: str) -> str:
    """Return a name for messages."""
    return repr(name[:80])


def changes_for(
    rows: Sequence[Row], columns: Mapping[str, Column], declared: Mapping[str, str], dialect: Dialect
) -> Changes:
    """Return the changes that a table with these columns (by folded name) needs for the rows.

    A field with only nulls needs no column yet. If there would be too many columns, some rows get none for
    their fields, and `fill` refuses these rows.
    """
    changes = Changes()
    types = {dialect.fold(name): sql for name, sql in declared.items()}
    for folded, names in by_column(names_of(rows), dialect).items():
        if dialect.refusal(names[0]):
            continue  # null in all rows
        column = columns.get(folded)
        if column is not None and column.type is not ValueType.INTEGER:
            continue  # declared, regardless of the values
        values = [value for name in names for value in _column(rows, name) if value is not None]
        if column is None:
            sql = types.get(folded)
            if sql is not None:
                changes.added.append(dialect.column(names[0], sql))
            elif (kind := _infer(values)) is not None:
                changes.added.append(Column(names[0], kind, decimal_type(dialect.types[kind], values)))
        elif column.type is ValueType.INTEGER and _has_fraction(values):
            changes.widened.append(Column(column.name, ValueType.FLOAT, dialect.types[ValueType.FLOAT]))
    if len(columns) + len(changes.added) > MAX_COLUMNS:
        changes.added = _within_limit(rows, changes.added, MAX_COLUMNS - len(columns), dialect)
    return changes


def _within_limit(rows: Sequence[Row], added: Sequence[Column], room: int, dialect: Dialect) -> list[Column]:
    """Limit new columns to those of the first rows whose columns all fit."""
    wanted = {dialect.fold(column.name) for column in added}
    kept: set[str] = set()
    for row in rows:
        needed = {dialect.fold(name) for name, value in row.items() if value is not None} & wanted
        if len(kept | needed) <= room:
            kept |= needed
    return [column for column in added if dialect.fold(column.name) in kept]


def fill(
    rows: Sequence[Row],
    columns: Mapping[str, Column],
    dialect: Dialect,
    declared: Collection[str] = (),
) -> tuple[dict[str, list[Any]], dict[int, RecordError]]:
    """Return the values of each column that the rows use, and the rows that do not fit.

    Fields without a column are ignored if null, and an error otherwise. A decimal is rounded only to the
    places of a type that the user chose: that of a `declared` column, or one that no sink creates.
    """
    rounding = set(map(dialect.fold, declared))
    values: dict[str, list[Any]] = {}
    failures: dict[int, RecordError] = {}
    for folded, names in by_column(names_of(rows), dialect).items():
        column = columns.get(folded)
        given = _column(rows, names[0])
        for name in names[1:]:
            given = [one if one is not None else row.get(name) for one, row in zip(given, rows, strict=True)]
        if column is None:
            for index, value in enumerate(given):
                if value is not None:
                    failures[index] = _without_column(names[0], rows[index], columns, dialect)
            continue
        types = set(map(type, given)) - {type(None)}
        beyond = column.type is ValueType.INTEGER and types == {int} and _exceeds(given, column)
        scale = None
        if column.type is ValueType.NUMERIC and folded not in rounding and types & {Decimal, str}:
            scale = own_scale(column.sql)
        if types <= _DIRECT[column.type] and not beyond and scale is None:
            values[column.name] = given
            continue
        if column.type is ValueType.JSON and types <= _JSON_TYPES:
            with suppress(TypeError):
                values[column.name] = _json_each(given)
                continue
        values[column.name] = fitted = []
        for index, value in enumerate(given):
            try:
                fitted.append(None if value is None else _fit(column, value, scale, dialect))
            except (ValueError, TypeError) as error:
                fitted.append(None)
                failures.setdefault(index, _misfit(column, error))
    return values, failures


def _without_column(name: str, row: Row, columns: Mapping[str, Column], dialect: Dialect) -> RecordError:
    given = {dialect.fold(one) for one, value in row.items() if value is not None}
    if len(given | columns.keys()) > MAX_COLUMNS:
        return RecordError(
            f"with the record's fields, e.g. {shown(name)}, the table would have more than {MAX_COLUMNS} "
            "columns: put objects whose field names are data into one field, or drop them before the sink",
            kind="TooManyFields",
        )
    return RecordError(
        f"the table has no column {shown(name)}: add it, or set `evolve: true`", kind="UnknownField"
    )


def _misfit(column: Column, error: Exception) -> RecordError:
    return RecordError(
        f"column {column.name!r} is {column.sql}, and the value is {error}: convert the field before the "
        "sink, or change the column's type",
        kind="WrongType",
    )


_DIRECT: Final[Mapping[ValueType, frozenset[type]]] = {
    ValueType.BOOLEAN: frozenset({bool}),
    ValueType.INTEGER: frozenset({int}),
    ValueType.FLOAT: frozenset({float}),
    ValueType.NUMERIC: frozenset({int, Decimal, float}),
    ValueType.TEXT: frozenset({str}),
    ValueType.JSON: frozenset(),
    ValueType.TIMESTAMP: frozenset({str}),
    ValueType.DATE: frozenset({str}),
    ValueType.BYTES: frozenset({bytes}),
    ValueType.OTHER: frozenset({str, int, float, bool, bytes}),
}

_JSON_TYPES: Final = frozenset({dict, list})

_GROUPS: Final[Mapping[type, ValueType]] = {
    bool: ValueType.BOOLEAN,
    int: ValueType.INTEGER,
    float: ValueType.INTEGER,
    Decimal: ValueType.INTEGER,
    datetime: ValueType.TIMESTAMP,
    date: ValueType.DATE,
    bytes: ValueType.BYTES,
    dict: ValueType.JSON,
    list: ValueType.JSON,
    tuple: ValueType.JSON,
}


def _infer(values: Iterable[Any]) -> ValueType | None:
    """Infer the column type that most of these values fit; None if all are null.

    Most rather than all: a single broken value must not turn the column into text.
    """
    types = Counter(type(value) for value in values if value is not None)
    if not types:
        return None
    groups: Counter[ValueType] = Counter()
    for one, count in types.items():
        groups[_GROUPS.get(one, ValueType.TEXT)] += count
    (kind, most), *others = groups.most_common(2)
    if others and others[0][1] == most:
        return ValueType.TEXT
    if kind is not ValueType.INTEGER:
        return kind
    if Decimal in types:
        return ValueType.NUMERIC
    return ValueType.FLOAT if float in types else ValueType.INTEGER


def _has_fraction(values: Iterable[Any]) -> bool:
    floats = any(issubclass(kind, float) for kind in set(map(type, values)))
    return floats and any(isinstance(value, float) and not value.is_integer() for value in values)


def _exceeds(values: Sequence[Any], column: Column) -> bool:
    numbers = [value for value in values if value is not None]
    limit = 1 << (column.bits - 1)
    return bool(numbers) and (max(numbers) >= limit or min(numbers) < -limit)


def _fit(column: Column, value: Any, scale: int | None, dialect: Dialect) -> Any:
    """Convert the value for the column. Raises ValueError that describes the actual value."""
    if scale is not None:
        check_places(value, scale)
    kind = column.type
    if isinstance(value, Enum):
        value = value.value
    if kind is ValueType.JSON:
        return _json(value)
    if kind is ValueType.TEXT:
        return _text(value)
    if kind is ValueType.INTEGER:
        return _integer(column, value)
    if kind is ValueType.FLOAT and type(value) in (int, float, Decimal):
        if type(value) is int and int(float(value)) != value:
            raise ValueError("an integer with more digits than that has")
        if type(value) is Decimal and isinstance(json_value(value), str):
            raise ValueError("a decimal with more digits than that has")
        return float(value)
    if kind in (ValueType.TIMESTAMP, ValueType.DATE, ValueType.OTHER):
        if isinstance(value, date | datetime | time):
            return value.isoformat()
        if dialect.array is not None and column.sql.endswith("[]") and isinstance(value, list | tuple):
            return dialect.array(column.sql, value)
        if isinstance(value, dict | list | tuple):
            return _json(value)
        if kind is ValueType.OTHER or isinstance(value, str):
            return value if type(value) in _DIRECT[ValueType.OTHER] else str(value)
    if kind is ValueType.NUMERIC and isinstance(value, str):
        return value  # the database parses or refuses it
    if kind is ValueType.BYTES and isinstance(value, bytearray | memoryview):
        return bytes(value)
    if kind is ValueType.BYTES and isinstance(value, str):
        return base64_bytes(value)
    if type(value) in _DIRECT[kind]:
        return value
    raise ValueError(_called(value))


def _integer(column: Column, value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError(_called(value))
    limit = 1 << (column.bits - 1)
    if not -limit <= value < limit:
        raise ValueError(f"an integer beyond {column.bits} bits")
    return int(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, bytes):
        raise ValueError("bytes")
    if isinstance(value, Decimal | UUID | int) and not isinstance(value, bool):
        return str(value)
    return _json(value)


def _json_each(values: Sequence[Any]) -> list[str | None]:
    """Return the JSON of each value, None for None; raises TypeError as `_json` does."""
    try:
        texts = dump_together(values, _plain, orjson.OPT_NON_STR_KEYS).decode().split(",\n,")
    except TypeError:  # one of them may need what only `_json` does
        return [None if value is None else _json(value) for value in values]
    return [None if value is None else text for value, text in zip(values, texts, strict=True)]


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError as error:
        try:
            return dump_line(value)[:-1].decode()  # with integers beyond 64 bits
        except RecordError:
            raise error from None


def _plain(value: object) -> object:
    try:
        return plain(value)
    except TypeError:
        raise TypeError(f"a {type(value).__name__}, which cannot be stored") from None


def _called(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "an integer", float: "a number with a fraction",
             dict: "an object", list: "a list"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")
