"""Replace the rows of a table of PostgreSQL by those of another, which is filled first."""
# ruff: noqa: S608 -- names are quoted

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from connectors.postgres.database import table_columns
from connectors.tables.columns import Column
from connectors.tables.isolation import unreplaceable
from connectors.tables.names import quote, quote_table
from connectors.tables.params import is_staging_of

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

_OBSTACLES: Final = """
WITH target AS (SELECT * FROM pg_class WHERE oid = to_regclass(%s))
SELECT 'it is ' || CASE relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
    WHEN 'f' THEN 'a foreign table' WHEN 'S' THEN 'a sequence' ELSE 'a composite type' END
FROM target WHERE relkind NOT IN ('r', 'p')
UNION ALL SELECT format('%%s refers to it (foreign key %%s)', conrelid::regclass, conname)
FROM target, pg_constraint WHERE contype = 'f' AND confrelid = target.oid AND conrelid <> target.oid
    AND conrelid NOT IN (SELECT relid FROM pg_partition_tree(target.oid))
UNION ALL SELECT format('%%s inherits from it and would lose its rows', inhrelid::regclass)
FROM target, pg_inherits, pg_class AS child
WHERE inhparent = target.oid AND child.oid = inhrelid AND NOT child.relispartition
UNION ALL SELECT format('its rule %%s replaces what INSERT does', rulename)
FROM target, pg_rewrite WHERE ev_class = target.oid AND ev_type = '3' AND is_instead AND relkind <> 'v'
UNION ALL SELECT format('its row-level security applies to the user %%s', current_user)
FROM target WHERE row_security_active(target.oid)
LIMIT 1"""

_LOCK_MS: Final = 200
"""A rehearsal does not wait for long readers of the table, as others would then wait for it."""


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
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint AS one WHERE conrelid = to_regclass(%s) "
        "AND contype = 'f' AND confrelid <> conrelid AND has_table_privilege(confrelid, 'REFERENCES') "
        "AND confrelid NOT IN (SELECT relid FROM pg_partition_ancestors(conrelid)) AND NOT EXISTS "
        "(SELECT 1 FROM pg_constraint WHERE oid = one.conparentid AND conrelid = one.conrelid)"
    )
    for (reference,) in await _rows(connection, references, table):
        await _execute(connection, f"ALTER TABLE {new} ADD {reference}")
    columns = await table_columns(connection, staging)
    for name, sql in declared.items():
        if name in columns:
            await _execute(connection, f"ALTER TABLE {new} ALTER COLUMN {quote(name)} TYPE {sql}")
    partition = await _partitions(connection, table)
    if partition is not None:
        name = quote(f"partitions of {table}")
        await _execute(connection, f"ALTER TABLE {new} ADD CONSTRAINT {name} CHECK ({partition})")


async def _partitions(connection: Connection, table: str) -> str | None:
    """Return the condition of a row that has a partition; None if any row has one."""
    partitioned = "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s) AND (relkind = 'p' OR relispartition)"
    if not await _rows(connection, partitioned, table):
        return None
    leaves = (
        "SELECT coalesce(pg_get_partition_constraintdef(relid), 'true') "
        "FROM pg_partition_tree(to_regclass(%s)) WHERE isleaf"
    )
    return " OR ".join(f"({one})" for (one,) in await _rows(connection, leaves, table)) or "false"


async def check_replaceable(connection: Connection, table: str) -> None:
    """Check that the rows of a table, if it exists, can be replaced.

    Raises:
        FatalError: the table is a view, other tables depend on its rows, or it would not get all rows.
    """
    for (reason,) in await _rows(connection, _OBSTACLES, table):
        raise unreplaceable(table, reason)


async def rehearse(connection: Connection, table: str, staging: str) -> None:
    """Empty and change the table as an exchange will do, and roll this back.

    Raises:
        FatalError: a trigger does not allow it.
    """
    from psycopg.errors import DataError, IntegrityError, LockNotAvailable, RaiseException

    try:
        async with connection.transaction(force_rollback=True):
            await _execute(connection, f"SET LOCAL lock_timeout = {_LOCK_MS}")
            await _make_room(connection, table, await table_columns(connection, staging))
    except LockNotAvailable:
        pass  # the exchange waits, and reports what it finds
    except (RaiseException, DataError, IntegrityError):
        raise unreplaceable(table, "one of its triggers raised an exception at TRUNCATE") from None


async def exchange(connection: Connection, table: str, staging: str) -> int:
    """Exchange the rows within a transaction; the table keeps its views, grants and indexes.

    Return the number of rows that the table has taken: its triggers may leave some out.
    """
    new, taken = await table_columns(connection, staging), 0
    if new:
        await _execute(
            connection, f"CREATE TABLE IF NOT EXISTS {quote_table(table)} (LIKE {quote_table(staging)})"
        )
    await _make_room(connection, table, new)
    if new:
        computed = await _generated_columns(connection, staging)
        listed = ", ".join(quote(name) for name in new if name not in computed)
        statement = (
            f"INSERT INTO {quote_table(table)} ({listed}) OVERRIDING SYSTEM VALUE "
            f"SELECT {listed} FROM {quote_table(staging)}"
        )
        taken = (await connection.execute(statement.encode())).rowcount
    await _drop_staging(connection, table)
    return taken


async def _make_room(connection: Connection, table: str, new: Mapping[str, Column]) -> None:
    """Empty the table, if it exists, and give it these columns."""
    old = await table_columns(connection, table)
    if not old:
        return
    await _execute(connection, f"TRUNCATE {quote_table(table)}")
    for name, column in new.items():
        step = f"ADD COLUMN {quote(name)} {column.sql}"
        if name in old:  # no value may change on its way
            step = f"ALTER COLUMN {quote(name)} TYPE {column.sql} USING NULL::{column.sql}"
        if name not in old or old[name].sql != column.sql:
            await _execute(connection, f"ALTER TABLE {quote_table(table)} {step}")


async def _drop_staging(connection: Connection, table: str) -> None:
    """Drop the table of new rows, and those that earlier runs have left."""
    schema, _, name = table.rpartition(".")
    cursor = await connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = coalesce(nullif(%s, ''), current_schema())",
        [schema],
    )
    for (found,) in await cursor.fetchall():
        if is_staging_of(found, name):
            await _execute(connection, f"DROP TABLE {quote_table(f'{schema}.{found}' if schema else found)}")


async def _generated_columns(connection: Connection, table: str) -> set[str]:
    """Return the columns that the database computes from others."""
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attgenerated <> ''"
    return {name for (name,) in await _rows(connection, query, table)}


async def _rows(connection: Connection, query: str, table: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode(), [quote_table(table)])).fetchall()


async def _execute(connection: Connection, statement: str) -> None:
    await connection.execute(statement.encode())
