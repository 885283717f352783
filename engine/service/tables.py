"""Warehouse tables from Pydantic models: columns, DDL, and rows as tuples.

Tables have no primary key: an index made loading three times slower as a table grew. `SEQUENCE` is the
commit sequence: of two rows with one id, the one with the higher number is the newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from engine.errors import RegistryError, StateError
from engine.service.models import IngestModel, Row
from engine.service.wire_types import is_nullable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["SEQUENCE", "Column", "Table", "create_or_check", "quote", "tables_of"]

SEQUENCE = "_seq"
"""Column of the commit sequence; not part of what a reader sees."""

_KEY = "id"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its SQL type, and how a Python value becomes one of it (None: as it is)."""

    name: str
    sql_type: str
    convert: Callable[[Any], object] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `key` is the column by which rows replace one another, always the first, None without one.

    `defaults` are the values of fields that a row may leave out.
    """

    name: str
    columns: tuple[Column, ...]
    key: str | None
    defaults: tuple[tuple[str, object], ...]

    @property
    def names(self) -> list[str]:
        """The columns that a reader sees, in order."""
        return [column.name for column in self.columns]

    @property
    def stored_names(self) -> list[str]:
        """All columns, in the order of `encode`'s tuples."""
        return [*self.names, SEQUENCE]

    def encode(self, rows: Sequence[Row], sequence: int) -> list[tuple[Any, ...]]:
        """The rows as tuples in the order of `stored_names`. Changes the dicts, so once only.

        Raises KeyError or TypeError for a row that lacks a field without default or cannot be converted.
        """
        width = len(self.columns)
        for row in rows:
            if len(row) < width:
                for name, default in self.defaults:
                    row.setdefault(name, default)
            row[SEQUENCE] = sequence
        for column in self.columns:
            if (convert := column.convert) is not None:
                name = column.name
                for row in rows:
                    if row[name] is not None:
                        row[name] = convert(row[name])
        return list(map(itemgetter(*self.stored_names), rows))


def quote(identifier: str) -> str:
    """The identifier as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def tables_of(models: Iterable[IngestModel]) -> dict[str, Table]:
    """The tables that the models fill, by name. Raises RegistryError when two models disagree about one."""
    tables: dict[str, Table] = {}
    owners: dict[str, str] = {}
    for model in models:
        if model.table is None:
            continue
        table = _table_of(model.table, model.row_model)
        known = tables.setdefault(model.table, table)
        if [(c.name, c.sql_type) for c in known.columns] != [(c.name, c.sql_type) for c in table.columns]:
            raise RegistryError(
                f"ingest models {owners[model.table]!r} and {model.name!r} disagree about the columns of "
                f"table {model.table!r}"
            )
        owners.setdefault(model.table, model.name)
    return tables


def _table_of(name: str, model: type[BaseModel]) -> Table:
    columns = [_column(field_name, field.annotation) for field_name, field in model.model_fields.items()]
    columns.sort(key=lambda column: column.name != _KEY)  # stable: the key first, the rest as declared
    defaults = [
        (field_name, None if field.default is PydanticUndefined else field.default)
        for field_name, field in model.model_fields.items()
        if field.default_factory is None and (not field.is_required() or is_nullable(field.annotation))
    ]
    has_key = columns[0].name == _KEY and not is_nullable(model.model_fields[_KEY].annotation)
    key = _KEY if has_key else None
    return Table(name, tuple(columns), key, tuple(defaults))


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


def _column(name: str, annotation: object) -> Column:
    if get_origin(annotation) is Annotated:
        return _column(name, get_args(annotation)[0])
    if annotation in _SCALARS:
        return Column(name, *_SCALARS[annotation])
    parts = get_args(annotation)
    if is_nullable(annotation):
        rest = [part for part in parts if part is not type(None)]
        if len(rest) == 1:
            return _column(name, rest[0])
    origin = get_origin(annotation)
    if origin is Literal and all(isinstance(part, str) for part in parts):
        return Column(name, "VARCHAR")
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Column(name, "VARCHAR", lambda value: str(value.value if isinstance(value, Enum) else value))
    if origin is list:
        inner = _column(name, parts[0])
        if inner.convert is None:
            return Column(name, f"{inner.sql_type}[]")
    return Column(name, "VARCHAR", _as_json)


_ANYTHING: TypeAdapter[object] = TypeAdapter(object)


def _as_json(value: object) -> str:
    """Whatever has no column type of its own, as JSON text."""
    return orjson.dumps(value, default=lambda item: _ANYTHING.dump_python(item, mode="json")).decode()


def create_or_check(connection: DuckDBPyConnection, table: Table) -> None:
    """Create the table, or see that it has the columns that the model declares.

    Raises StateError when it has others: rows are never squeezed into a table of another shape.
    """
    expected = {column.name: column.sql_type for column in table.columns} | {SEQUENCE: "BIGINT"}
    found = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() "
        "WHERE table_name = ? AND database_name = current_database() ORDER BY column_index",
        [table.name],
    ).fetchall()
    if not found:
        columns = ", ".join(f"{quote(name)} {sql_type}" for name, sql_type in expected.items())
        connection.execute(f"CREATE TABLE {quote(table.name)} ({columns})")
        return
    actual = {str(name): str(sql_type) for name, sql_type in found}
    if actual == expected:
        return
    differences = [
        f"{name} is {actual.get(name, 'missing')}, declared {expected.get(name, 'nowhere')}"
        for name in [*expected, *(actual.keys() - expected.keys())]
        if actual.get(name) != expected.get(name)
    ]
    raise StateError(
        f"the columns of table {table.name} in the warehouse differ from its model: "
        f"{'; '.join(differences)}. Use another state directory, or move the old warehouse away"
    )
