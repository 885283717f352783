"""The sink `duckdb`."""
# ruff: noqa: S608 -- names are quoted or constants, values are bound; a query is the user's own

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import anyio
from pydantic import BaseModel

from connectors.duckdb.database import DIALECT, Database, DuckdbParams, columns_of
from connectors.duckdb.staging import definitions_like, drop_staging, exchange, unique_indexes
from connectors.tables.columns import Changes
from connectors.tables.deliveries import KEEP_DAYS, Entry, LedgerRow, entries_of
from connectors.tables.isolation import RowsRefusedError, replacing, unreplaceable
from connectors.tables.names import quote, quote_table
from connectors.tables.params import (
    Mode,
    TableSinkParams,
    check_staging,
    needs_whole_run,
    table_claim,
)
from connectors.tables.sink import Rounds, TableSink, Values, chosen
from engine.contract.batch import Batch
from engine.contract.claims import Claim
from engine.contract.component import Kind, Locality, component
from engine.errors import FatalError, TransientError
from engine.fault_injection import reached
from engine.service.appending import append

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LEDGER: Final = "_odw_batches"
_REPLACED: Final = "\0replaced"
_SCOPE: Final = "run = ? AND node = ? AND target = ?"


class DuckdbSinkParams(TableSinkParams, DuckdbParams):
    """Parameters of the `duckdb` sink."""


def _claim(params: DuckdbSinkParams) -> Claim:
    file = os.path.realpath(os.path.expanduser(params.path))
    return table_claim(params, f"{file}\n{params.table.lower().removeprefix('main.')}")


@component(
    Kind.SINK,
    "duckdb",
    params=DuckdbSinkParams,
    extra="tables",
    locality=Locality.MACHINE,
    whole_run=needs_whole_run,
    claim=_claim,
)
class DuckdbSink(TableSink[DuckdbSinkParams]):
    """Writes records to a table of a DuckDB file, without a server.

    The table is created from the first records and gets a column for each new field. Every batch is one
    transaction, with an entry of its records in `_odw_batches`, so a resumed run adds nothing twice. A record
    that the table refuses becomes a dead letter, without the rest of its batch.
    """

    dialect = DIALECT

    def __init__(self, params: DuckdbSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._database = Database(params)
        self._run = ""

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the file and prepare the table."""
        stack.push_async_callback(self._database.close)
        self._run = self._begin()
        await self._database.open()
        await self._database.run(self._prepare)
        self._columns = await self._database.columns(self._table)
        if self._table != self.params.table:
            self._replaced = await self._database.columns(self.params.table)
            await self._check_replaceable()

    async def _check_replaceable(self) -> None:
        try:
            await self._rehearse()
        except FatalError as error:
            raise unreplaceable(self.params.table, str(error)) from error
        except TransientError:
            pass  # another node is writing; the exchange reports what it finds

    async def _rehearse(self) -> None:
        """Exchange no rows, and roll this back. Raises FatalError if the table does not allow it."""

        def rehearse(connection: DuckDBPyConnection) -> None:
            connection.begin()
            try:
                exchange(connection, self.params.table, self._table, rows=0)
            finally:
                connection.rollback()

        try:
            await self._database.run(rehearse)
        except RowsRefusedError as error:
            raise FatalError(str(error).removeprefix("DuckDB refused the row: "), kind="schema") from error

    async def describe_target(self) -> str:
        """Describe the rows of the table; see `DescribesTarget`. Creates no file."""
        params = self.params
        named = f"{params.path}, table {params.table}, mode {params.mode}"
        if not await anyio.Path(self._database.path).exists():
            return f"{named}: not there yet"
        database = Database(params, read_only=True, lock_timeout=0)
        await database.open()
        try:
            columns = await database.columns(params.table)
            if not columns:
                return f"{named}: not there yet"
            ((rows,),) = await database.fetch(f"SELECT count(*) FROM {quote_table(params.table)}")
        finally:
            await database.close()
        return f"{named}: {rows:,} rows, {len(columns)} columns"

    async def write(self, batch: Batch) -> None:
        """Add or merge the records in one transaction.

        Raises:
            BatchError: the table refused some records.
            TransientError: a transaction of another node conflicted.
            FatalError: the table or the file cannot be written.
        """
        try:
            await self._deliver(batch)
        except TransientError:
            self._reader.doubt(batch)  # a part may have been committed before
            raise

    async def run_completed(self) -> None:
        """Replace the old rows if the mode says so, and delete the entries of the run."""
        if self.params.mode is Mode.MERGE:
            return
        with replacing(self.params.table):
            await self._database.run(self._complete)

    async def _count(self) -> int:
        return await self._database.run(self._counted)

    def _counted(self, connection: DuckDBPyConnection) -> int:
        query = f"SELECT coalesce(sum(records), 0)::BIGINT FROM {LEDGER} WHERE {_SCOPE}"
        return int(connection.execute(query, self._scope).fetchall()[0][0])

    @property
    def _scope(self) -> list[str]:
        return [self._run, f"{self.ctx.pipeline}.{self.ctx.node}", self.params.table]

    async def _known(self, split: str) -> list[LedgerRow]:
        found = await self._database.fetch(
            f"SELECT ranges, hashes FROM {LEDGER} WHERE {_SCOPE} AND split = ?", [*self._scope, split]
        )
        return [(ranges, hashes) for ranges, hashes in found]

    async def _alter(self, changes: Changes) -> None:
        await self._database.run(lambda connection: self._change(connection, changes))
        self._columns = await self._database.columns(self._table)
        if self._replaced:
            await self._rehearse()

    async def _any_value(self, name: str, condition: str) -> bool:
        query = f"SELECT 1 FROM {quote_table(self._table)} WHERE {quote(name)} {condition} LIMIT 1"
        return bool(await self._database.fetch(query))

    async def _append(self, values: Values, part: Sequence[int], batch: Batch) -> None:
        await self._database.run(lambda connection: self._insert(connection, values, part, batch))

    async def _merge(self, values: Values, rounds: Rounds) -> None:
        await self._database.run(lambda connection: self._update(connection, values, rounds))

    def _prepare(self, connection: DuckDBPyConnection) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {LEDGER} (run VARCHAR, node VARCHAR, target VARCHAR, split VARCHAR, "
            "records BIGINT, ranges VARCHAR, hashes BIGINT[], "
            "committed_at TIMESTAMPTZ DEFAULT current_timestamp)"
        )
        connection.execute(
            f"DELETE FROM {LEDGER} WHERE committed_at < current_timestamp - INTERVAL {KEEP_DAYS} DAY"
        )

    def _change(self, connection: DuckDBPyConnection, changes: Changes) -> None:
        table = quote_table(self._table)
        connection.begin()
        if not self._columns:
            if "." in self._table:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(self._table.partition('.')[0])}")
            made = [f"{quote(column.name)} {column.sql}" for column in changes.added]
            if self._replaced:
                made = definitions_like(connection, self.params.table, changes.added, self.params.columns)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(made)})")
            for index in unique_indexes(connection, self.params.table, self._table) if self._replaced else ():
                connection.execute(index)
        for column in changes.added if self._columns else ():
            connection.execute(
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {quote(column.name)} {column.sql}"
            )
        for column in changes.widened:
            connection.execute(f"ALTER TABLE {table} ALTER {quote(column.name)} TYPE {column.sql}")
        connection.commit()

    def _insert(
        self, connection: DuckDBPyConnection, values: Values, part: Sequence[int], batch: Batch
    ) -> None:
        connection.begin()
        self._copy(connection, quote_table(self._table), values, list(values), part)
        self._note(connection, entries_of(batch, distinct=self.ctx.distinct_keys))
        _commit(connection)

    def _copy(
        self,
        connection: DuckDBPyConnection,
        table: str,
        values: Values,
        names: Sequence[str],
        part: Sequence[int],
    ) -> None:
        types = {name: self._columns[DIALECT.fold(name)].sql for name in names}
        append(connection, table, types, [chosen(values[name], part) for name in names])

    def _note(self, connection: DuckDBPyConnection, entries: Sequence[Entry]) -> None:
        for entry in entries:
            connection.execute(
                f"INSERT INTO {LEDGER} (run, node, target, split, records, ranges, hashes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?::BIGINT[])",
                [*self._scope, entry.split, entry.records, entry.ranges, entry.hashes],
            )

    def _update(self, connection: DuckDBPyConnection, values: Values, rounds: Rounds) -> None:
        table, key = quote_table(self._table), list(map(DIALECT.fold, self.params.key))
        connection.begin()
        for part, names in rounds:
            listed = ", ".join(map(quote, names))
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE _odw_merged AS SELECT {listed} FROM {table} LIMIT 0"
            )
            self._copy(connection, "_odw_merged", values, names, part)
            same = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)
            updates = ", ".join(
                f"{quote(name)} = s.{quote(name)}" for name in names if DIALECT.fold(name) not in key
            )
            matched = f"WHEN MATCHED THEN UPDATE SET {updates} " if updates else ""
            given = ", ".join(f"s.{quote(name)}" for name in names)
            # keys that only the column's type makes equal, such as 1 and 1.0: the last one wins, as for all
            # others
            last = (
                f"SELECT {listed} FROM _odw_merged QUALIFY row_number() OVER "
                f"(PARTITION BY {', '.join(map(quote, key))} ORDER BY rowid DESC) = 1"
            )
            connection.execute(
                f"MERGE INTO {table} t USING ({last}) s ON ({same}) {matched}"
                f"WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({given})"
            )
        connection.execute("DROP TABLE IF EXISTS _odw_merged")
        _commit(connection)

    def _complete(self, connection: DuckDBPyConnection) -> None:
        replaces = self.params.mode is Mode.REPLACE
        connection.begin()
        if replaces:
            done = f"SELECT 1 FROM {LEDGER} WHERE {_SCOPE} AND split = ?"
            if connection.execute(done, [*self._scope, _REPLACED]).fetchall():
                connection.commit()
                return
            new = columns_of(connection, self._table)
            query = f"SELECT count(*) FROM {quote_table(self._table)}"
            staged = connection.execute(query).fetchall()[0][0] if new else 0
            check_staging(self.params.table, staged, self._counted(connection))
            exchange(connection, self.params.table, self._table)
            drop_staging(connection, self.params.table)
        if not self.ctx.chunk:  # the other parts of the run may still be running
            connection.execute(f"DELETE FROM {LEDGER} WHERE {_SCOPE}", self._scope)
        if replaces:
            self._note(connection, [Entry(_REPLACED, "[]", [], 0)])
        connection.commit()


def _commit(connection: DuckDBPyConnection) -> None:
    reached("rows_committing")
    connection.commit()
    reached("rows_committed")
