"""The table for the rows that are to replace those of another table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from connectors.postgres.database import table_columns
from connectors.tables.names import quote, quote_table

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

__all__ = ["create_like", "generated_columns"]


async def create_like(connection: Connection, table: str, staging: str, declared: Mapping[str, str]) -> None:
    """Create a table with the columns, defaults and constraints of `table`, so that it will accept each row.

    Args:
        connection: in a transaction.
        table: the table whose rows are to be replaced.
        staging: the table to create unless it exists.
        declared: types that columns have instead, by name.
    """
    if await table_columns(connection, staging):
        return
    new = quote_table(staging)
    await _execute(
        connection,
        f"CREATE TABLE {new} (LIKE {quote_table(table)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS "
        "INCLUDING GENERATED INCLUDING INDEXES)",
    )
    indexes = (
        "SELECT indexrelid::regclass::text FROM pg_index "
        "WHERE indrelid = to_regclass(%s) AND NOT indisunique AND NOT indisexclusion"
    )
    for (index,) in await _rows(connection, indexes, staging):
        await _execute(connection, f"DROP INDEX {index}")
    identities = (
        "SELECT attname, quote_literal(pg_get_serial_sequence(attrelid::regclass::text, attname)) "
        "FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attidentity <> '' AND NOT attisdropped"
    )
    for name, sequence in await _rows(connection, identities, table):
        default = f"nextval({sequence}::regclass)"
        await _execute(connection, f"ALTER TABLE {new} ALTER COLUMN {quote(name)} SET DEFAULT {default}")
    # a row that refers to another row of the table may come before it
    references = (
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(%s) "
        "AND contype = 'f' AND confrelid <> conrelid AND has_table_privilege(confrelid, 'REFERENCES')"
    )
    for (reference,) in await _rows(connection, references, table):
        await _execute(connection, f"ALTER TABLE {new} ADD {reference}")
    columns = await table_columns(connection, staging)
    for name, sql in declared.items():
        if name in columns:
            await _execute(connection, f"ALTER TABLE {new} ALTER COLUMN {quote(name)} TYPE {sql}")


async def generated_columns(connection: Connection, table: str) -> set[str]:
    """Return the columns that the database computes from others."""
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attgenerated <> ''"
    return {name for (name,) in await _rows(connection, query, table)}


async def _rows(connection: Connection, query: str, table: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode(), [quote_table(table)])).fetchall()


async def _execute(connection: Connection, statement: str) -> None:
    await connection.execute(statement.encode())
