"""The sink `clickhouse`."""
# ruff: noqa: S608 -- names and texts are quoted

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from hashlib import sha256
from typing import Any, Final

import anyio
from pydantic import BaseModel

from connectors.clickhouse.client import ClickHouseConnection, Client
from connectors.clickhouse.ledger import Ledger
from connectors.clickhouse.merging import INSERT, check_appends, check_merges, merge_rows
from connectors.clickhouse.tables import (
    BATCH,
    DIALECT,
    Table,
    insert_data,
    listed,
    nullable,
    quoted,
    sorting_key,
    table_columns,
)
from connectors.tables.columns import Changes, Column
from connectors.tables.deliveries import LedgerRow, entries_of
from connectors.tables.isolation import RowsRefusedError
from connectors.tables.params import (
    Mode,
    TableSinkParams,
    check_staging,
    is_staging_of,
    needs_whole_run,
    table_claim,
)
from connectors.tables.sink import Rounds, TableSink, Values, chosen
from engine.contract.batch import Batch
from engine.contract.claims import Claim
from engine.contract.component import Kind, Locality, component, operational
from engine.errors import FatalError, TransientError
from engine.fault_injection import reached

_WINDOW: Final = 1000
_DONE: Final = "done"
_BATCH_COLUMN: Final = f"{BATCH} UInt64 MATERIALIZED 0"


class ClickHouseSinkParams(TableSinkParams):
    """Parameters of the `clickhouse` sink."""

    records: int = operational(
        50_000,
        ge=1,
        le=100_000,
        description="Maximum records per INSERT; ClickHouse prefers a few large ones",
    )


def _claim(params: ClickHouseSinkParams) -> Claim:
    def located(connection: Mapping[str, Any]) -> tuple[object, str]:
        table = Table.of(params.table, str(connection.get("database", "default")))
        return str(connection.get("url")).rstrip("/"), table.sql

    return table_claim(params, located=located)


def _reach(params: ClickHouseSinkParams) -> Locality:
    # without transactions, two processes at one split cannot see each other's rows in time
    return Locality.ANYWHERE if params.mode is Mode.MERGE else Locality.MACHINE


@component(
    Kind.SINK,
    "clickhouse",
    params=ClickHouseSinkParams,
    connection=ClickHouseConnection,
    extra="clickhouse",
    locality=_reach,
    whole_run=needs_whole_run,
    claim=_claim,
)
class ClickHouseSink(TableSink[ClickHouseSinkParams]):
    """Writes records to a table of ClickHouse, through its HTTP interface.

    The table is created from the first records and gets a column for each new field. Appended rows carry the
    number of their batch, and `_odw_batches` lists the records of each batch, so a resumed run adds nothing
    twice. Merged rows replace those with the same key in a ReplacingMergeTree. A record that the table
    refuses becomes a dead letter, without the rest of its batch.
    """

    dialect = DIALECT

    def __init__(self, params: ClickHouseSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._turn = anyio.Lock()

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect and prepare the table."""
        if not isinstance(self.connection, ClickHouseConnection):
            raise FatalError("the clickhouse sink needs a connection with the `url` of the server")
        self._ready = self._settled = False
        self._client = Client(self.connection)
        stack.push_async_callback(self._client.close)
        node = f"{self.ctx.pipeline}.{self.ctx.node}"
        scope = [self._begin(), node, self.params.table]
        self._target = Table.of(self.params.table, self.connection.database)
        self._rows = Table.of(self._table, self.connection.database)
        self._ledger = Ledger(self._client, scope, self._target, self.ctx.clock)
        digest = sha256("\n".join(scope).encode()).hexdigest()[:12]
        self._staging = self._target.beside(f"_odw_merge_{digest}")
        with suppress(TransientError):  # the first write waits for the server
            await self._prepare()

    async def check_connection(self) -> str:
        """Log in; see `ChecksConnection`."""
        assert isinstance(self.connection, ClickHouseConnection)
        client = Client(self.connection)
        try:
            ((user, version),) = await client.fetch("SELECT currentUser(), version()")
        finally:
            await client.close()
        return f"logged in as {user}, ClickHouse {version}"

    async def describe_target(self) -> str:
        """Describe the rows of the table; see `DescribesTarget`."""
        assert isinstance(self.connection, ClickHouseConnection)
        params = self.params
        client, table = Client(self.connection), Table.of(params.table, self.connection.database)
        named = f"table {params.table}, mode {params.mode}"
        try:
            columns = await table_columns(client, table)
            if not columns:
                return f"{named}: not there yet"
            final = " FINAL" if params.mode is Mode.MERGE else ""
            ((rows,),) = await client.fetch(f"SELECT count() FROM {table.sql}{final}")
        finally:
            await client.close()
        return f"{named}: {int(rows):,} rows, {len(columns)} columns"

    async def write(self, batch: Batch) -> None:
        """Add or merge the records.

        Raises:
            BatchError: the table refused some records.
            TransientError: the server cannot be reached or is overloaded.
            FatalError: the table cannot be written.
        """
        try:
            async with self._turn:
                await self._prepare()
                await self._deliver(batch)
        except TransientError:
            self._reader.doubt(batch)  # the rows may have been inserted nevertheless
            self._settled = False
            raise

    async def run_completed(self) -> None:
        """Replace the old rows if the mode says so, and delete the entries of the run.

        Raises:
            TransientError: the server cannot be reached before the old rows were replaced.
        """
        if self.params.mode is Mode.MERGE:
            return
        try:
            await self._prepare()
            if self.params.mode is Mode.REPLACE:
                await self._replace()
            if not self.ctx.chunk:  # the other parts of the run may still be running
                await self._ledger.forget()
        except TransientError:
            if self.params.mode is Mode.REPLACE:
                raise
            # the rows are in the table; the server deletes their entries after a while

    async def _prepare(self) -> None:
        if self._ready:
            return
        if self.params.mode is not Mode.MERGE:
            await self._ledger.prepare()
        self._columns = await self._checked_columns()
        if self.params.mode is Mode.REPLACE:
            self._replaced = await table_columns(self._client, self._target)
            engine, _ = await self._facts(self._target)
            if engine:
                check_appends(engine, self.params.table)
        self._ready = True

    async def _checked_columns(self) -> dict[str, Column]:
        columns = await table_columns(self._client, self._rows)
        if columns and self.params.mode is Mode.MERGE:
            engine, _ = await self._facts(self._rows)
            sorting = await sorting_key(self._client, self._rows)
            check_merges(engine, sorting, self.params.table, self.params.key)
        elif columns:
            engine, _ = await self._facts(self._rows)
            check_appends(engine, self.params.table)
            await self._number_batches()
        return columns

    async def _number_batches(self) -> None:
        await self._client.execute(f"ALTER TABLE {self._rows.sql} ADD COLUMN IF NOT EXISTS {_BATCH_COLUMN}")

    async def _facts(self, table: Table) -> tuple[str, str]:
        """Engine and UUID of a table; both "" when there is none."""
        found = await self._client.fetch(
            f"SELECT engine, toString(uuid) FROM system.tables WHERE {table.where()}"
        )
        engine, uuid = found[0] if found else ("", "")
        return engine, uuid

    async def _count(self) -> int:
        return await self._ledger.count(self._rows) if self._columns else 0

    async def _known(self, split: str) -> list[LedgerRow]:
        return await self._ledger.known(split, self._rows) if self._columns else []

    async def _any_value(self, name: str, condition: str) -> bool:
        query = f"SELECT 1 FROM {self._rows.sql} WHERE {quoted(name)} {condition} LIMIT 1"
        return bool(await self._client.fetch(query))

    async def _alter(self, changes: Changes) -> None:
        if not self._columns:
            await self._create(changes)
        steps = [
            f"ADD COLUMN IF NOT EXISTS {quoted(column.name)} {nullable(column.sql)}"
            for column in changes.added
            if column.name not in self._columns  # as of a table that is made like another
        ]
        steps += [
            f"MODIFY COLUMN {quoted(column.name)} {_widened(self._columns[column.name].sql, column.sql)}"
            for column in changes.widened
        ]
        if self._columns and steps:
            await self._client.execute(f"ALTER TABLE {self._rows.sql} {', '.join(steps)}")
        self._columns = await table_columns(self._client, self._rows)
        if computed := [column.name for column in changes.added if column.name not in self._columns]:
            raise FatalError(
                f"the table {self.params.table} computes {', '.join(computed)}: leave the field out before "
                "the sink: map: {drop: […]}",
                kind="schema",
            )

    async def _create(self, changes: Changes) -> None:
        """Create the table; a replacement gets the engine and sorting key of the original."""
        if self.params.mode is Mode.REPLACE:
            self._columns = dict(self._replaced)
            if self._columns:
                await self._client.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._rows.sql} AS {self._target.sql}"
                )
                await self._number_batches()
                return
        key = self.params.key
        made = [
            f"{quoted(column.name)} {column.sql if column.name in key else nullable(column.sql)}"
            for column in changes.added
        ]
        if self.params.mode is Mode.MERGE:
            end = f"ENGINE = ReplacingMergeTree ORDER BY ({listed(key)})"
        else:
            made += [_BATCH_COLUMN, f"INDEX {BATCH} {BATCH} TYPE bloom_filter GRANULARITY 1"]
            end = (
                "ENGINE = MergeTree ORDER BY tuple() "
                f"SETTINGS non_replicated_deduplication_window = {_WINDOW}"
            )
        await self._client.execute(f"CREATE TABLE IF NOT EXISTS {self._rows.sql} ({', '.join(made)}) {end}")

    async def _append(self, values: Values, part: Sequence[int], batch: Batch) -> None:
        entries = entries_of(batch, distinct=self.ctx.distinct_keys)
        number = self._ledger.number(entries)
        columns = [self._columns[name] for name in values]
        data = insert_data(columns, [chosen(column, part) for column in values.values()], number)
        await self._ledger.announce(number, entries)
        reached("rows_committing")
        try:
            await self._client.execute(
                f"INSERT INTO {self._rows.sql} ({listed(list(values))}, {BATCH}) SETTINGS {INSERT}, "
                "insert_allow_materialized_columns = 1, insert_deduplicate = 1, "
                f"insert_deduplication_token = '{number:x}' FORMAT JSONCompactColumns",
                data,
                self._ledger.query_id(number),
            )
        except RowsRefusedError:
            await self._ledger.take_back(number, entries)
            raise
        reached("rows_committed")

    async def _merge(self, values: Values, rounds: Rounds) -> None:
        if not self._settled:  # an older row must not come after a newer one of its key
            await self._ledger.wait_for_inserts()
            self._settled = True
        reached("rows_committing")
        for number, (part, names) in enumerate(rounds):
            given = {name: chosen(values[name], part) for name in names}
            await merge_rows(
                self._client,
                self._rows,
                self._staging,
                self._columns,
                given,
                self.params.key,
                self._ledger.query_id(number),
            )
        reached("rows_committed")

    async def _replace(self) -> None:
        """Exchange the tables in one step; views and grants refer to the name."""
        noted = await self._ledger.replacement()
        if _DONE in noted:
            return
        (_, new), (_, old) = await self._facts(self._rows), await self._facts(self._target)
        if not noted:
            staged = await self._count_all(self._rows) if new else 0
            check_staging(self.params.table, staged, await self._ledger.announced())
            await self._ledger.note_replacement(new)
            noted = {new}
        reached("rows_committing")
        if old and "" in noted:  # the run has no records
            await self._client.execute(f"TRUNCATE TABLE {self._target.sql}")
        elif new in noted and new:  # otherwise it has been done already
            verb, link = ("EXCHANGE TABLES", "AND") if old else ("RENAME TABLE", "TO")
            await self._client.execute(f"{verb} {self._rows.sql} {link} {self._target.sql}")
        reached("rows_committed")
        await self._drop_staging()
        await self._ledger.note_replacement(_DONE)

    async def _count_all(self, table: Table) -> int:
        ((rows,),) = await self._client.fetch(f"SELECT count() FROM {table.sql}")
        return int(rows)

    async def _drop_staging(self) -> None:
        found = await self._client.fetch(
            f"SELECT name FROM system.tables WHERE {self._target.where().partition(' AND ')[0]}"
        )
        for (name,) in found:
            if is_staging_of(name, self._target.name):
                await self._client.execute(f"DROP TABLE IF EXISTS {self._target.beside(name).sql}")


def _widened(old: str, new: str) -> str:
    return f"Nullable({new})" if old.startswith("Nullable(") else new
