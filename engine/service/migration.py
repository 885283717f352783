"""Migrate a table to the columns of its model when the warehouse is opened.

Changes that keep every stored value are automatic: a column is added, or its type changes if every value fits
the new one exactly. Anything else is an error with a remedy; values are never converted with loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import StateError
from engine.service.columns import JSON, UUID_TEXT, Column, fits
from engine.service.tables import SEQUENCE, Table, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_log = logging.getLogger(__name__)

_FILLED_AT_ONCE = 100_000  # rows

Columns = dict[str, tuple[str, str]]
"""Name and type of each column, by its name in lower case."""


def create_or_migrate(connection: DuckDBPyConnection, table: Table, version: int, *, is_known: bool) -> None:
    """Create the table, or migrate it to the columns of the model.

    Args:
        version: the format of the file before it was opened.
        is_known: whether the service has stored the table before.

    Raises:
        StateError: stored rows do not fit the model; the message names the columns and the remedy.
    """
    columns = ", ".join(f"{quote(name)} {sql_type}" for name, sql_type in table.stored_types.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS {quote(table.name)} ({columns})")
    # duckdb_columns() would make DuckDB parse all of its own views first, which takes longer than all else
    found = connection.execute("SELECT name, type FROM pragma_table_info(?)", [quote(table.name)]).fetchall()
    actual = {name.lower(): (name, sql_type) for name, sql_type in found}
    _Migration(connection, table, version, is_known=is_known).run(actual)


class _Migration:
    """The changes to one table, in the transaction that opens the warehouse."""

    def __init__(self, connection: DuckDBPyConnection, table: Table, version: int, *, is_known: bool) -> None:
        self._connection = connection
        self._table = table
        self._name = quote(table.name)
        self._is_old = version < 3
        self._is_known = is_known

    def run(self, actual: Columns) -> None:
        """Add and change columns; `actual` are (name, type) by lower-case name. Raises StateError."""
        problems: list[str] = []
        for column in self._table.columns:
            if column.name.lower() not in actual:
                problems += self._add(column)
                continue
            spelled, old = actual[column.name.lower()]
            if spelled != column.name:
                self._execute(f"ALTER TABLE {self._name} RENAME {quote(spelled)} TO {quote(column.name)}")
            if old != column.sql_type:
                problems += self._change(column, old)
            elif self._is_old and column.was_quoted:
                name = quote(column.name)
                unquoted = f"{name} = {name} ->> '$' WHERE starts_with({name}, '\"')"
                self._execute(f"UPDATE {self._name} SET {unquoted}")  # noqa: S608 -- quoted
        if not problems:  # else a column may not have its new type
            problems = self._misfits()
        if problems:
            raise StateError(
                f"table {self._table.name} in the warehouse does not fit its model: {'; '.join(problems)}. "
                "Change the model back, give the changed field a new name, use another state directory, or "
                "move the old warehouse away"
            )
        if self._table.key is not None and self._table.columns[0].compared == UUID_TEXT:
            self._respell_uuids(quote(self._table.key))
        if self._is_known and self._table.key is None and "id" in actual:
            _log.warning(
                "table %s has no key, so rows with the same id do not replace each other. Add a "
                "required `id` to its model if they should",
                self._table.name,
            )
        declared = {column.name.lower() for column in self._table.columns} | {SEQUENCE}
        if gone := sorted(actual.keys() - declared):
            _log.warning(
                "table %s keeps the columns %s, which its model no longer has; new rows leave them empty",
                self._table.name,
                ", ".join(gone),
            )

    def _respell_uuids(self, name: str) -> None:
        """Give stored ids the spelling of new rows, which only replace rows with the same text.

        The ids may have been plain texts before. Rows of the same id may become duplicates.
        """
        new = UUID_TEXT.format(name)
        differing, others = self._counts(f"{name} <> {new}", f"TRY_CAST({name} AS UUID) IS NULL")
        if differing:
            self._execute(f"UPDATE {self._name} SET {name} = {new} WHERE {name} <> {new}")  # noqa: S608 -- quoted
            self._execute("UPDATE _odw_tables SET dirty = true WHERE table_name = ?", [self._table.name])
            _log.info("table %s: %s ids now have the usual spelling of a UUID", self._table.name, differing)
        if others:
            _log.warning("table %s keeps %s rows whose id is not a UUID", self._table.name, others)

    def _add(self, column: Column) -> list[str]:
        count = self._count("true")
        if count and column.name in self._table.required:
            remedy = "give the field a default, or let it be null"
            return [f"{column.name} is missing, and {count} rows have no value for it ({remedy})"]
        self._execute(f"ALTER TABLE {self._name} ADD COLUMN {quote(column.name)} {column.sql_type}")
        default = dict(self._table.defaults).get(column.name)
        if count and default is not None:
            self._execute(f"UPDATE {self._name} SET {quote(column.name)} = ?", [column.stored(default)])  # noqa: S608
        _log.info("table %s has the new column %s", self._table.name, column.name)
        make = dict(self._table.factories).get(column.name)
        return [] if make is None or not self._table.has_rowid else self._fill(column, make)

    def _fill(self, column: Column, make: Callable[[], object]) -> list[str]:
        """Give stored rows the values of a factory, a new one for each row."""
        rows = [row for (row,) in self._connection.execute(f"SELECT rowid FROM {self._name}").fetchall()]  # noqa: S608
        for start in range(0, len(rows), _FILLED_AT_ONCE):
            ids = rows[start : start + _FILLED_AT_ONCE]
            try:
                values = [column.stored(make()) for _ in ids]
            except Exception as error:  # noqa: BLE001 -- the factory is the user's code
                return [f"the default_factory of {column.name} fails ({type(error).__name__})"]
            if not all(fits(column.sql_type, value) for value in values):
                return [f"the default_factory of {column.name} makes values that are no {column.sql_type}"]
            given = f"SELECT unnest(?::BIGINT[]) AS row, unnest(?::{column.sql_type}[]) AS value"
            self._execute(
                f"UPDATE {self._name} SET {quote(column.name)} = given.value FROM ({given}) AS given "  # noqa: S608
                f"WHERE {self._name}.rowid = given.row",
                [ids, values],
            )
        return []

    def _change(self, column: Column, old: str) -> list[str]:
        name, new = quote(column.name), column.sql_type
        there, back = _conversion(name, old, new, is_old=self._is_old)
        if back is not None:
            lost = self._count(f"{name} IS NOT NULL AND ({there} IS NULL OR {back} IS DISTINCT FROM {name})")
            if lost:
                return [f"{column.name} is {old}, declared {new}, and {lost} rows do not fit"]
        self._execute(f"ALTER TABLE {self._name} ALTER {name} SET DATA TYPE {new} USING {there}")
        _log.info("column %s of table %s changed from %s to %s", column.name, self._table.name, old, new)
        return []

    def _misfits(self) -> list[str]:
        """Return where stored rows have null and their model does not allow it; warn of other misfits.

        Null is only a warning where code of the user makes the rows, since that may be what puts it there.
        """
        filled, limits = sorted(self._table.filled), sorted(self._table.limits)
        conditions = [f"{quote(name)} IS NULL" for name in filled]
        conditions += [f"NOT ({sql.format(quote(name))})" for name, sql in limits]
        counts = self._counts(*conditions) if conditions else ()
        remedy = "let the field be null"
        nulls = [
            f"{name} is not allowed to be null, but is in {count} rows ({remedy})"
            for name, count in zip(filled, counts, strict=False)
            if count
        ]
        for (name, _), count in zip(limits, counts[len(filled) :], strict=True):
            if count:
                _log.warning(
                    "table %s keeps %s rows with a value that %s no longer allows: allow it again, or load "
                    "them again with other values",
                    self._table.name,
                    count,
                    name,
                )
        if self._table.is_checked:
            return nulls
        for text in nulls:
            _log.warning("table %s: %s", self._table.name, text)
        return []

    def _count(self, condition: str) -> int:
        return self._counts(condition)[0]

    def _counts(self, *conditions: str) -> tuple[int, ...]:
        """Count the rows of each condition in one scan."""
        counts = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions)
        return self._execute(f"SELECT {counts} FROM {self._name}").fetchall()[0]  # noqa: S608 -- quoted

    def _execute(self, sql: str, values: list[object] | None = None) -> DuckDBPyConnection:
        return self._connection.execute(sql, values or [])


def _conversion(name: str, old: str, new: str, *, is_old: bool) -> tuple[str, str | None]:
    """Return SQL that converts a column to its new type, and back; None if no value can be lost."""
    iso = f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%f+00:00')"
    if new == JSON and old == "TIMESTAMP":
        return f"to_json({iso})", None
    if new == JSON:
        kept = f"CASE WHEN json_valid({name}) THEN {name}::JSON ELSE to_json({name}) END"
        return (kept if is_old and old == "VARCHAR" else f"to_json({name})"), None
    if old == JSON and new == "VARCHAR":
        text = f"CASE WHEN json_type({name}) = 'VARCHAR' THEN {name} ->> '$' END"
        return text, name
    if old == "TIMESTAMP" and new == "VARCHAR":
        return iso, None
    there = f"TRY_CAST({name} AS {new})"
    return there, f"CAST({there} AS {old})"
