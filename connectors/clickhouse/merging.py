"""Merge rows by key: ClickHouse keeps the row of a key that was inserted last."""
# ruff: noqa: S608 -- names are quoted

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from connectors.clickhouse.client import Client
from connectors.clickhouse.tables import Table, insert_data, listed, quoted
from connectors.tables.columns import Column
from engine.errors import FatalError

INSERT: Final = (
    "async_insert = 0, input_format_parallel_parsing = 0, max_insert_block_size = 1048576, "
    "date_time_input_format = 'best_effort'"
)
# an equal row that comes after others of its key is an update, not a duplicate
_MERGE: Final = f"{INSERT}, insert_deduplicate = 0"


_DROP_SECONDS: Final = 5.0
_KEEPS_ALL: Final = frozenset({"MergeTree", "ReplicatedMergeTree", "SharedMergeTree"})


def check_appends(engine: str, table: str) -> None:
    """Check that the table's engine keeps every row as inserted.

    Raises:
        FatalError: it does not.
    """
    if engine not in _KEEPS_ALL:
        raise FatalError(
            f"the table {table} is {engine}, and only in a MergeTree rows stay as they are inserted: "
            "use `mode: merge` for a ReplacingMergeTree, or write a MergeTree that a materialized view reads",
            kind="schema",
        )


def check_merges(engine: str, sorting: Sequence[str], table: str, key: Sequence[str]) -> None:
    """Check that the table's engine keeps one row per key.

    Raises:
        FatalError: it does not; the message describes a table that does.
    """
    if "Replacing" in engine and set(sorting) == set(key):
        return
    has = f"is {engine} ORDER BY ({', '.join(sorting)})"
    raise FatalError(
        f"the table {table} {has}, and a merge needs ENGINE = ReplacingMergeTree "
        f"ORDER BY ({', '.join(key)}): make another table, or let the sink make it",
        kind="schema",
    )


async def insert_rows(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    values: Sequence[Sequence[Any]],
    query_id: str = "",
) -> None:
    """Insert whole rows."""
    data = insert_data(columns, values)
    names = listed([column.name for column in columns])
    await client.execute(
        f"INSERT INTO {table.sql} ({names}) SETTINGS {_MERGE} FORMAT JSONCompactColumns", data, query_id
    )


async def merge_rows(
    client: Client,
    table: Table,
    staging: Table,
    columns: Mapping[str, Column],
    values: Mapping[str, Sequence[Any]],
    key: Sequence[str],
    query_id: str,
) -> None:
    """Insert rows that have some of the columns; the others keep their values in the table."""
    others = [name for name in columns if name not in values]
    given = [columns[name] for name in values]
    if not others:
        await insert_rows(client, table, given, list(values.values()), query_id)
        return
    names, keys = listed(list(values)), listed(key)
    await client.execute(f"CREATE OR REPLACE TABLE {staging.sql} AS {table.sql} ENGINE = Memory")
    try:
        await insert_rows(client, staging, given, list(values.values()))
        same = " AND ".join(f"s.{quoted(name)} = o.{quoted(name)}" for name in key)
        await client.execute(
            f"INSERT INTO {table.sql} ({names}, {listed(others)}) "
            f"SELECT {listed(list(values), 's.')}, {listed(others, 'o.')} "
            f"FROM (SELECT {names} FROM {staging.sql}) AS s "
            f"LEFT ANY JOIN (SELECT {keys}, {listed(others)} FROM {table.sql} FINAL "
            f"WHERE ({keys}) IN (SELECT {keys} FROM {staging.sql})) AS o ON {same} "
            "SETTINGS join_use_nulls = 1, insert_deduplicate = 0",
            query_id=query_id,
        )
    finally:
        with anyio.move_on_after(_DROP_SECONDS, shield=True):
            await client.execute(f"DROP TABLE IF EXISTS {staging.sql}")
