"""The sink `duckdb`."""
# ruff: noqa: S608 -- names are quoted or constants, values are bound; a query is the user's own

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import anyio
from pydantic import BaseModel, Field

from connectors.duckdb.database import DIALECT, Database, quote, quote_table
from connectors.tables.columns import Changes, Column, changes_for, fill, rows_of
from connectors.tables.deliveries import KEEP_DAYS, LedgerRow, Reader, entries_of
from connectors.tables.isolation import deliver_all
from connectors.tables.params import (
    Mode,
    TableSinkParams,
    check_staging,
    is_staging_of,
    merge_rounds,
    staging_name,
)
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Context, Kind, Locality, Sink, component, operational
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, RecordError, TransientError
from engine.fault_injection import reached

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["DuckdbSink", "DuckdbSinkParams"]

LEDGER: Final = "_odw_batches"
_REPLACED: Final = "\0replaced"
_BATCH_BYTES: Final = 16 * 1024 * 1024


class DuckdbSinkParams(TableSinkParams):
    """Parameters of the `duckdb` sink."""

    path: str = Field(min_length=1, description="The DuckDB file, made if it does not exist")
    lock_timeout: float = operational(
        10.0, ge=0, description="How long to wait for another process that has the file open, in seconds"
    )
    memory_limit: str = operational(
        "1GB", pattern=r"^\d+(\.\d+)?\s?[KMGT]i?B$", description="Memory that DuckDB may use for the file"
    )


@component(Kind.SINK, "duckdb", params=DuckdbSinkParams, extra="tables", locality=Locality.MACHINE)
class DuckdbSink(Sink[DuckdbSinkParams]):
    """Writes records to a table of a DuckDB file, without a server.

    The table is made from the first records, and gets a column for each field that is new. Every batch is one
    transaction, with an entry of its records in `_odw_batches`: what a resumed run reads again is not added
    again. A record that the table refuses becomes a dead letter, alone.
    """

    def __init__(self, params: DuckdbSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._database = Database(
            params.path, lock_timeout=params.lock_timeout, memory_limit=params.memory_limit
        )
        self._columns: dict[str, Column] = {}
        self._table = params.table
        self._run = ""
        self._reader: Reader | None = None

    @property
    def limits(self) -> BatchLimits:
        """`records`, and 16 MiB."""
        return BatchLimits(records=self.params.records, nbytes=_BATCH_BYTES)

    async def __aenter__(self) -> Self:
        # outside a pipeline nothing comes again, and all runs have the same id
        standalone = self.ctx.run_id == Context().run_id
        self._run = uuid4().hex if standalone else self.ctx.run_id
        if self.params.mode is Mode.REPLACE:
            self._table = staging_name(self.params.table, self.ctx)
        try:
            await self._database.open()
            await self._database.run(self._prepare)
            self._columns = await self._database.columns(self._table)
        except BaseException:
            await self._database.close()
            raise
        self._reader = Reader(self._known, distinct=self.ctx.distinct_keys)
        return self

    async def describe_target(self) -> str:
        """What the table holds; see `DescribesTarget`. Makes no file."""
        params = self.params
        named = f"{params.path}, table {params.table}, mode {params.mode}"
        if not await anyio.Path(self._database.path).exists():
            return f"{named}: not there yet"
        database = Database(params.path, lock_timeout=0, memory_limit=params.memory_limit, read_only=True)
        await database.open()
        try:
            columns = await database.columns(params.table)
            if not columns:
                return f"{named}: not there yet"
            ((rows,),) = await database.fetch(f"SELECT count(*) FROM {quote_table(params.table)}")
        finally:
            await database.close()
        return f"{named}: {rows:,} rows, {len(columns)} columns"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    async def write(self, batch: Batch) -> None:
        """Add or merge the records in one transaction.

        Raises:
            BatchError: the table refused some records.
            TransientError: a transaction of another node got in between.
            FatalError: the table or the file cannot be written.
        """
        assert self._reader is not None, "enter the sink first"
        merges = self.params.mode is Mode.MERGE
        indices = list(range(len(batch))) if merges else await self._reader.missing(batch)
        if not indices:
            return
        rows = rows_of(batch.records)
        if len(indices) < len(rows):
            batch, rows = batch.take(indices), [rows[index] for index in indices]
        failures = self._without_key(rows)
        if changes := self._changes(rows):
            await self._database.run(lambda connection: self._alter(connection, changes))
            self._columns = await self._database.columns(self._table)
        values, misfits = fill(rows, self._columns, DIALECT)
        failures = {**misfits, **failures}
        if not values:
            empty = RecordError("no field of the record has a value", kind="EmptyRecord")
            failures = dict.fromkeys(range(len(rows)), empty)
        good = [index for index in range(len(rows)) if index not in failures]
        names = list(values)
        table = list(zip(*values.values(), strict=True))

        async def merge(part: Sequence[int]) -> None:
            rounds = merge_rounds(part, rows, self.params.key)
            layouts = [set(map(DIALECT.fold, rows[one[0]])) for one in rounds]
            fields = [[name for name in names if DIALECT.fold(name) in layout] for layout in layouts]
            await self._database.run(lambda connection: self._merge(connection, names, fields, table, rounds))

        async def add(part: Sequence[int]) -> None:
            chosen = batch if len(part) == len(batch) else batch.take(part)
            added = table if len(part) == len(table) else [table[index] for index in part]
            await self._database.run(lambda connection: self._append(connection, names, added, chosen))

        try:
            failures |= await deliver_all(good, merge if merges else add)
        except TransientError:
            self._reader.doubt(batch)  # a part may have been committed before
            raise
        if failures:
            raise BatchError({indices[index]: error for index, error in failures.items()})

    async def run_completed(self) -> None:
        """Put the new rows in the place of the old ones, and forget the entries of the run."""
        if self.params.mode is Mode.MERGE:
            return
        await self._database.run(self._complete)

    async def count_records(self, delivered: Delivered) -> list[Check]:
        """Compare the entries of the run with the engine's ledger."""
        what = f"rows added to {self.params.table}"
        if self.params.mode is Mode.MERGE:
            return [Check(what, delivered.records, note="merged rows do not tell which run they are of")]
        if self.ctx.chunk:
            return [Check(what, delivered.records, note="other parts of the run add rows too")]
        found = await self._database.fetch(
            f"SELECT coalesce(sum(records), 0)::BIGINT FROM {LEDGER} "
            "WHERE run = ? AND node = ? AND target = ?",
            self._scope,
        )
        return [Check(what, delivered.records, int(found[0][0]))]

    @property
    def _scope(self) -> list[str]:
        return [self._run, f"{self.ctx.pipeline}.{self.ctx.node}", self.params.table]

    async def _known(self, split: str) -> list[LedgerRow]:
        found = await self._database.fetch(
            f"SELECT ranges, hashes FROM {LEDGER} WHERE run = ? AND node = ? AND target = ? AND split = ?",
            [*self._scope, split],
        )
        return [(ranges, hashes) for ranges, hashes in found]

    def _changes(self, rows: Sequence[Any]) -> Changes | None:
        if not self.params.evolve and self._columns:
            return None
        return changes_for(rows, self._columns, self.params.columns, DIALECT)

    def _without_key(self, rows: Sequence[Any]) -> dict[int, RecordError]:
        return {
            index: RecordError(f"no value in the key field {name!r}", kind="MissingKey")
            for name in self.params.key
            for index, row in enumerate(rows)
            if row.get(name) is None
        }

    def _prepare(self, connection: DuckDBPyConnection) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {LEDGER} (run VARCHAR, node VARCHAR, target VARCHAR, split VARCHAR, "
            "records BIGINT, ranges VARCHAR, hashes BIGINT[], "
            "committed_at TIMESTAMPTZ DEFAULT current_timestamp)"
        )
        connection.execute(
            f"DELETE FROM {LEDGER} WHERE committed_at < current_timestamp - INTERVAL {KEEP_DAYS} DAY"
        )

    def _alter(self, connection: DuckDBPyConnection, changes: Changes) -> None:
        table = quote_table(self._table)
        connection.begin()
        if not self._columns:
            if "." in self._table:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(self._table.partition('.')[0])}")
            made = ", ".join(f"{quote(column.name)} {column.sql}" for column in changes.added)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({made})")
        for column in changes.added if self._columns else ():
            connection.execute(
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {quote(column.name)} {column.sql}"
            )
        for column in changes.widened:
            connection.execute(f"ALTER TABLE {table} ALTER {quote(column.name)} TYPE {column.sql}")
        connection.commit()

    def _append(
        self,
        connection: DuckDBPyConnection,
        names: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        batch: Batch,
    ) -> None:
        connection.begin()
        with connection.appender(quote_table(self._table), columns=list(names)) as appender:
            appender.append_rows(rows)
        for entry in entries_of(batch, distinct=self.ctx.distinct_keys):
            connection.execute(
                f"INSERT INTO {LEDGER} (run, node, target, split, records, ranges, hashes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?::BIGINT[])",
                [*self._scope, entry.split, entry.records, entry.ranges, entry.hashes],
            )
        _commit(connection)

    def _merge(
        self,
        connection: DuckDBPyConnection,
        names: Sequence[str],
        fields: Sequence[Sequence[str]],
        rows: Sequence[tuple[Any, ...]],
        rounds: Sequence[Sequence[int]],
    ) -> None:
        table, key = quote_table(self._table), list(map(DIALECT.fold, self.params.key))
        connection.begin()
        for chosen, part in zip(fields, rounds, strict=True):
            places = [names.index(name) for name in chosen]
            listed = ", ".join(map(quote, chosen))
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE _odw_merged AS SELECT {listed} FROM {table} LIMIT 0"
            )
            with connection.appender("_odw_merged", columns=list(chosen)) as appender:
                appender.append_rows([tuple(rows[index][place] for place in places) for index in part])
            same = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)
            updates = ", ".join(
                f"{quote(name)} = s.{quote(name)}" for name in chosen if DIALECT.fold(name) not in key
            )
            matched = f"WHEN MATCHED THEN UPDATE SET {updates} " if updates else ""
            given = ", ".join(f"s.{quote(name)}" for name in chosen)
            connection.execute(
                f"MERGE INTO {table} t USING _odw_merged s ON ({same}) {matched}"
                f"WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({given})"
            )
        connection.execute("DROP TABLE IF EXISTS _odw_merged")
        _commit(connection)

    def _complete(self, connection: DuckDBPyConnection) -> None:
        scope = "run = ? AND node = ? AND target = ?"
        connection.begin()
        if self.params.mode is Mode.REPLACE:
            done = connection.execute(
                f"SELECT 1 FROM {LEDGER} WHERE {scope} AND split = ?",
                [*self._scope, _REPLACED],
            )
            if done.fetchall():
                connection.commit()
                return
            self._replace(connection)
        if not self.ctx.chunk:  # the other parts of the run may still be under way
            connection.execute(f"DELETE FROM {LEDGER} WHERE {scope}", self._scope)
        if self.params.mode is Mode.REPLACE:
            connection.execute(
                f"INSERT INTO {LEDGER} (run, node, target, split, records, ranges, hashes) "
                "VALUES (?, ?, ?, ?, 0, '[]', [])",
                [*self._scope, _REPLACED],
            )
        connection.commit()

    def _replace(self, connection: DuckDBPyConnection) -> None:
        """Exchange the rows within the transaction; the table itself stays, with its views and comments."""
        table, staging = quote_table(self.params.table), quote_table(self._table)
        schema = self.params.table.rpartition(".")[0] or "main"
        query = (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) ORDER BY column_index"
        )
        old, new = (
            connection.execute(query, [schema, name.rpartition(".")[2]]).fetchall()
            for name in (self.params.table, self._table)
        )
        staged = connection.execute(f"SELECT count(*) FROM {staging}").fetchall()[0][0] if new else 0
        added = connection.execute(
            f"SELECT coalesce(sum(records), 0)::BIGINT FROM {LEDGER} "
            "WHERE run = ? AND node = ? AND target = ?",
            self._scope,
        ).fetchall()[0][0]
        check_staging(self.params.table, staged, added)
        known = {name.lower() for name, _ in old}
        if new and not old:
            connection.execute(f"CREATE TABLE {table} AS FROM {staging} LIMIT 0")
        for name, sql in new if old else ():
            if name.lower() not in known:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {quote(name)} {sql}")
        if old:
            connection.execute(f"DELETE FROM {table}")
        if new:
            listed = ", ".join(quote(name) for name, _ in new)
            connection.execute(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {staging}")
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?)",
            [schema],
        ).fetchall()
        for (name,) in tables:
            if is_staging_of(name, self.params.table.rpartition(".")[2]):
                connection.execute(f"DROP TABLE {quote(schema)}.{quote(name)}")


def _commit(connection: DuckDBPyConnection) -> None:
    reached("rows_committing")
    connection.commit()
    reached("rows_committed")
