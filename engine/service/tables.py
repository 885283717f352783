"""Warehouse tables from Pydantic models: columns, and rows as tuples.

Tables have no primary key: an index made loading three times slower as a table grew. `SEQUENCE` is the commit
sequence: of two rows with the same id, the one with the higher sequence is newer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from engine.service.columns import JSON, Column, allowed_by, columns_of, fits, spelling_of, takes_null
from engine.service.models import IngestModel, ModelError, Row
from engine.service.wire_types import has_validators, is_nullable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from engine.service.storage import Reader

SEQUENCE = "_seq"
"""Column of the commit sequence; hidden from readers."""

ENCODING_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors of the conversion of a value that does not fit."""

_KEY = "id"


class MisfitError(Exception):
    """A row does not fit its table; the message names the column, never the value."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `key` is the column by which rows replace each other: always the first, or None.

    `defaults` are the values of fields that a row may leave out; `required` fields have no default. No row of
    the model has null in the fields `filled`; `limits` are other conditions, each with its field, over `{0}`,
    the stored value. `is_checked`: no code of the user changes rows, so all are as the model's types say.
    `key_text` gives all spellings of an id that clients may send one text; None if they have no others.
    `factories` make the values that a row may leave out and that are not in `defaults`.
    """

    name: str
    columns: tuple[Column, ...]
    key: str | None
    defaults: tuple[tuple[str, object], ...]
    required: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()
    limits: frozenset[tuple[str, str]] = frozenset()
    is_checked: bool = False
    key_text: Callable[[str], str] | None = None
    factories: tuple[tuple[str, Callable[[], object]], ...] = ()

    def spelled(self, sent: str) -> str:
        """Return the text of the stored id that a sent one means."""
        return sent if self.key_text is None else self.key_text(sent)

    @property
    def names(self) -> list[str]:
        """The columns visible to readers, in order."""
        return [column.name for column in self.columns]

    @property
    def stored_types(self) -> dict[str, str]:
        """The SQL type of each column, in the order of `encode`'s tuples."""
        return {column.name: column.sql_type for column in self.columns} | {SEQUENCE: "BIGINT"}

    @property
    def plain_columns(self) -> list[Column]:
        """The columns with scalar values: a text, number, time or boolean."""
        return [column for column in self.columns if column.sql_type != JSON and "[" not in column.sql_type]

    @property
    def has_rowid(self) -> bool:
        """Whether DuckDB's `rowid` can be used; a column of that name hides it."""
        return all(column.name.lower() != "rowid" for column in self.columns)

    @property
    def newest_first(self) -> str:
        """SQL that orders rows of an id, newest first."""
        return f"{SEQUENCE} DESC, rowid DESC" if self.has_rowid else f"{SEQUENCE} DESC"

    def encode(self, rows: Sequence[Row], sequence: int) -> list[tuple[Any, ...]]:
        """Return the rows as tuples in the order of `stored_types`. Fills missing fields with defaults.

        Raises one of `ENCODING_ERRORS` for a row that lacks a field without default or cannot be converted.
        """
        width = len(self.columns)
        for row in rows:
            if len(row) < width:
                for name, default in self.defaults:
                    row.setdefault(name, default)
            row[SEQUENCE] = sequence
        if any(column.convert is not None for column in self.columns):
            rows = [self._converted(row) for row in rows]
        return list(map(itemgetter(*self.names, SEQUENCE), rows))

    def encode_checked(self, row: Row, sequence: int) -> tuple[Any, ...]:
        """Return one row as a tuple, checking that every value fits its column. Raises MisfitError."""
        values = {**dict(self.defaults), **row}
        for column in self.columns:
            try:
                value = column.stored(values[column.name])
            except ENCODING_ERRORS:
                raise MisfitError(_misfit(column, values)) from None
            if not fits(column.sql_type, value):
                raise MisfitError(_misfit(column, values))
            values[column.name] = value
        return (*(values[name] for name in self.names), sequence)

    def _converted(self, row: Row) -> Row:
        row = dict(row)
        for column in self.columns:
            if column.convert is not None and row[column.name] is not None:
                row[column.name] = column.convert(row[column.name])
        return row


def _misfit(column: Column, values: Row) -> str:
    if column.name not in values:
        return f"The row has no value at {column.name}"
    return f"Value does not fit a column of type {column.sql_type} at {column.name}"


def quote(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def number_of(source: Reader | DuckDBPyConnection, sql: str, *values: object) -> int:
    """Return the number that a query finds; 0 for none."""
    found = source.execute(sql, [*values]).fetchone()
    return int(found[0] or 0) if found else 0


def spelled_ids(tables: Iterable[Table], ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return, for each table and id, the table's name and the text of the stored id that is meant."""
    pairs = [(table.name, table.spelled(sent)) for table in tables if table.key is not None for sent in ids]
    return [name for name, _ in pairs], [text for _, text in pairs]


def tables_of(models: Iterable[IngestModel]) -> dict[str, Table]:
    """Return the tables that the models fill, by name; names must differ in more than case.

    Raises ModelError when two models disagree about a table, or a model's fields differ only in case.
    """
    tables: dict[str, Table] = {}
    owners: dict[str, IngestModel] = {}
    for model in models:
        if model.table is None:
            continue
        owner = owners.setdefault(model.table.lower(), model)
        assert owner.table is not None
        if owner.table != model.table:
            raise ModelError(
                f"ingest models {owner.name!r} and {model.name!r} call their tables {owner.table!r} and "
                f"{model.table!r}, which SQL takes for the same name: use one spelling, or another name",
                owner.name,
                model.name,
            )
        table = _table_of(model, model.table)
        known = tables.setdefault(model.table, table)
        if differing := _differing(known, table):
            raise ModelError(
                f"ingest models {owner.name!r} and {model.name!r} disagree about the columns of "
                f"table {model.table!r}: {differing}",
                owner.name,
                model.name,
            )
        tables[model.table] = replace(
            known,
            filled=known.filled & table.filled,
            limits=known.limits & table.limits,
            is_checked=known.is_checked and table.is_checked,
        )
    return tables


def _differing(one: Table, other: Table) -> str:
    """Return the differences between two models of a table; "" when they agree."""
    types, others = ({c.name: c.sql_type for c in table.columns} for table in (one, other))
    if types == others:
        return "" if list(types) == list(others) else "give the fields the same order"
    names = sorted(name for name in types | others if types.get(name) != others.get(name))
    return f"give {', '.join(names)} the same name and type in both, or each model a separate table"


def _table_of(owner: IngestModel, name: str) -> Table:
    model = owner.row_model
    columns = columns_of(model)
    if not columns:
        raise ModelError(f"{model.__name__}, the row of table {name!r}, has no fields", owner.name)
    _refuse_lookalikes(owner, columns)
    columns.sort(key=lambda column: column.name != _KEY)  # stable: the key first, the rest as declared
    fields = model.model_fields
    defaults = [
        (field_name, None if field.default is PydanticUndefined else field.default)
        for field_name, field in fields.items()
        if field.default_factory is None and (not field.is_required() or is_nullable(field.annotation))
    ]
    factories = [
        (field_name, partial(field.get_default, call_default_factory=True))
        for field_name, field in fields.items()
        if field.default_factory is not None and not field.default_factory_takes_validated_data
    ]
    required = frozenset(
        field_name
        for field_name, field in fields.items()
        if field.is_required() and not is_nullable(field.annotation)
    )
    first = columns[0]
    is_key = first.name == _KEY and not first.sql_type.endswith("[]")
    has_key = is_key and not is_nullable(fields[_KEY].annotation)
    stored = {column.name: fields[column.name] for column in columns}
    return Table(
        name,
        tuple(columns),
        _KEY if has_key else None,
        tuple(defaults),
        required,
        # earlier versions left null in stored rows where a factory makes the default of a new field
        frozenset(one for one, field in stored.items() if not (field.default_factory or takes_null(field))),
        frozenset((one, condition) for one, field in stored.items() for condition in allowed_by(field)),
        owner.transform is None and not has_validators(model),
        spelling_of(fields[_KEY].annotation, first) if has_key else None,
        tuple(factories),
    )


def _refuse_lookalikes(owner: IngestModel, columns: Iterable[Column]) -> None:
    counts = Counter(column.name.lower() for column in columns)
    twins = sorted(column.name for column in columns if counts[column.name.lower()] > 1)
    if twins:
        raise ModelError(
            f"table {owner.table!r}: the fields {', '.join(twins)} differ in case alone, which SQL ignores",
            owner.name,
        )
