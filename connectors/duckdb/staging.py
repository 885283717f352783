"""Replace the rows of a table of a DuckDB file by those of another, which is filled first."""
# ruff: noqa: S608 -- names are quoted, and the condition is a constant

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from connectors.duckdb.database import DIALECT, columns_of
from connectors.tables.columns import Column
from connectors.tables.names import quote, quote_table
from connectors.tables.params import is_staging_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_THERE = (
    "database_name = current_database() AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)"
)


def definitions_like(
    connection: DuckDBPyConnection, table: str, added: Iterable[Column], declared: Mapping[str, str]
) -> list[str]:
    """Return definitions of columns and constraints like those of `table`, so that it will accept each row.

    Args:
        connection: of the file.
        table: the table whose rows are to be replaced.
        added: more columns.
        declared: types that columns have instead, by name.
    """
    schema, _, name = table.rpartition(".")
    place = [schema or "main", name]
    types = {DIALECT.fold(column): sql for column, sql in declared.items()}
    columns: dict[str, str] = {}
    for column, sql, default, nullable in connection.execute(
        "SELECT column_name, data_type, column_default, is_nullable FROM duckdb_columns() "
        f"WHERE {_THERE} AND NOT is_generated ORDER BY column_index",
        place,
    ).fetchall():
        folded = DIALECT.fold(column)
        made = f"{quote(column)} {types.get(folded, sql)}"
        made += "" if default is None else f" DEFAULT ({default})"
        columns[folded] = made + ("" if nullable else " NOT NULL")
    for one in added:
        columns.setdefault(DIALECT.fold(one.name), f"{quote(one.name)} {one.sql}")
    constraints = connection.execute(
        # a row that refers to another row of the table may come before it
        "SELECT constraint_text, constraint_column_names FROM duckdb_constraints() "
        f"WHERE {_THERE} AND constraint_type <> 'NOT NULL' "
        "AND lower(coalesce(referenced_table, '')) <> lower(table_name) ORDER BY constraint_index",
        place,
    ).fetchall()
    fitting = [text for text, names in constraints if {DIALECT.fold(one) for one in names} <= columns.keys()]
    return [*columns.values(), *fitting]


def unique_indexes(connection: DuckDBPyConnection, table: str, staging: str) -> list[str]:
    """Return statements that create the unique indexes of `table` on the table of new rows."""
    schema, _, name = table.rpartition(".")
    found = connection.execute(
        f"SELECT expressions::VARCHAR[] FROM duckdb_indexes() WHERE {_THERE} AND is_unique",
        [schema or "main", name],
    ).fetchall()
    own = staging.rpartition(".")[2]
    return [
        f"CREATE UNIQUE INDEX IF NOT EXISTS {quote(f'{own}_{number}')} ON {quote_table(staging)} "
        f"({', '.join(expressions)})"
        for number, (expressions,) in enumerate(found)
    ]


def exchange(connection: DuckDBPyConnection, table: str, staging: str, *, rows: int | None = None) -> None:
    """Exchange the rows within a transaction; the table itself stays, with its views and comments.

    Args:
        connection: in a transaction.
        table: the table whose rows are replaced; created if it does not exist.
        staging: the table of the new rows, which may not exist.
        rows: the number of new rows, or all.
    """
    old, new = (columns_of(connection, name) for name in (table, staging))
    target, limit = quote_table(table), "" if rows is None else f" LIMIT {rows}"
    if new and not old:
        connection.execute(f"CREATE TABLE {target} AS FROM {quote_table(staging)} LIMIT 0")
    if old:
        connection.execute(f"DELETE FROM {target}")
    for name, column in new.items() if old else ():
        if name not in old:
            connection.execute(f"ALTER TABLE {target} ADD COLUMN {quote(column.name)} {column.sql}")
        elif old[name].sql != column.sql:  # no value may change on its way; deleted ones need not fit
            step = f"ALTER {quote(old[name].name)} TYPE {column.sql} USING NULL::{column.sql}"
            connection.execute(f"ALTER TABLE {target} {step}")
    if new:
        listed = ", ".join(quote(column.name) for column in new.values())
        connection.execute(
            f"INSERT INTO {target} ({listed}) SELECT {listed} FROM {quote_table(staging)}{limit}"
        )


def drop_staging(connection: DuckDBPyConnection, table: str) -> None:
    """Drop the table of new rows, and those that earlier runs have left."""
    schema, _, target = table.rpartition(".")
    schema = schema or "main"
    tables = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND lower(schema_name) = lower(?)",
        [schema],
    ).fetchall()
    for (name,) in tables:
        if is_staging_of(name, target):
            connection.execute(f"DROP TABLE {quote(schema)}.{quote(name)}")
