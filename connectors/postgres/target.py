"""Describe the target of a `postgres` sink before anything is written."""
# ruff: noqa: S608 -- names are quoted

from __future__ import annotations

from connectors.postgres.database import PostgresConnection, connected, table_columns
from connectors.postgres.staging import check_replaceable
from connectors.tables.names import quote_table
from connectors.tables.params import Mode

__all__ = ["check", "describe"]


async def check(connection: PostgresConnection) -> str:
    """Log in and return the user and server version. Raises as `connected`."""
    async with connected(connection) as opened:
        cursor = await opened.execute("SELECT current_user, current_setting('server_version')")
        row = await cursor.fetchone()
    assert row is not None
    return f"logged in as {row[0]}, PostgreSQL {row[1]}"


async def describe(connection: PostgresConnection, table: str, mode: str) -> str:
    """Describe the rows of the table. Raises as `connected`, and FatalError if they cannot be replaced."""
    async with connected(connection) as opened:
        columns = await table_columns(opened, table)
        if not columns:
            return f"table {table}, mode {mode}: not there yet"
        if mode == Mode.REPLACE:
            await check_replaceable(opened, table)
        cursor = await opened.execute(f"SELECT count(*) FROM {quote_table(table)}")
        row = await cursor.fetchone()
    assert row is not None
    return f"table {table}, mode {mode}: {row[0]:,} rows, {len(columns)} columns"
