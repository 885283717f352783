"""The table for the rows that are to replace those of another table of a DuckDB file."""
# ruff: noqa: S608 -- the condition is a constant

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from connectors.duckdb.database import DIALECT
from connectors.tables.columns import Column
from connectors.tables.names import quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["definitions_like"]

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
