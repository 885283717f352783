"""The sink `postgres`."""
# ruff: noqa: S608 -- names are quoted or constants, values are bound

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import anyio
from pydantic import BaseModel

from connectors.postgres import target
from connectors.postgres.copying import copy_data
from connectors.postgres.database import (
    DIALECT,
    PostgresConnection,
    close,
    connect,
    quote,
    quote_table,
    table_columns,
    translated,
)
from connectors.postgres.ledger import Ledger, StaleError
from connectors.tables.columns import Changes, Column, changes_for, fill, rows_of
from connectors.tables.deliveries import Reader, entries_of
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
from engine.contract.component import BatchLimits, Context, Kind, Locality, Sink, component
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, FatalError, RecordError, TransientError
from engine.fault_injection import reached

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

__all__ = ["PostgresSink", "PostgresSinkParams"]

_BATCH_BYTES: Final = 16 * 1024 * 1024
_STAGE: Final = "_odw_stage"
_LOOKS: Final = 5


class PostgresSinkParams(TableSinkParams):
    """Parameters of the `postgres` sink."""


def _reach(params: PostgresSinkParams) -> Locality:
    # only who has read the whole run can put its rows in the place of the others
    return Locality.MACHINE if params.mode is Mode.REPLACE else Locality.ANYWHERE


@component(
    Kind.SINK,
    "postgres",
    params=PostgresSinkParams,
    connection=PostgresConnection,
    extra="postgres",
    locality=_reach,
)
class PostgresSink(Sink[PostgresSinkParams]):
    """Writes records to a table of PostgreSQL, by COPY.

    The table is made from the first records, and gets a column for each field that is new. Every batch is one
    transaction: appended with an entry of its records in `_odw_batches`, so that what a resumed run reads
    again is not added again, or copied into a temporary table and merged by key. A record that the table
    refuses becomes a dead letter, alone.
    """

    def __init__(self, params: PostgresSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._columns: dict[str, Column] = {}
        self._table = params.table
        self._turn = anyio.Lock()
        self._open: Connection | None = None
        self._staged: tuple[str, ...] = ()
        self._ledger = Ledger("", "", "")
        self._reader: Reader | None = None

    @property
    def limits(self) -> BatchLimits:
        """`records`, and 16 MiB."""
        return BatchLimits(records=self.params.records, nbytes=_BATCH_BYTES)

    async def __aenter__(self) -> Self:
        # outside a pipeline nothing comes again, and all runs have the same id
        run = uuid4().hex if self.ctx.run_id == Context().run_id else self.ctx.run_id
        self._ledger = Ledger(run, f"{self.ctx.pipeline}.{self.ctx.node}", self.params.table)
        if self.params.mode is Mode.REPLACE:
            self._table = staging_name(self.params.table, self.ctx)
        self._reader = Reader(self._known, distinct=self.ctx.distinct_keys)
        with suppress(TransientError):  # the first write waits for the server
            async with self._connection():
                pass
        return self

    async def check_connection(self) -> str:
        """Log in; see `ChecksConnection`."""
        assert isinstance(self.connection, PostgresConnection)
        return await target.check(self.connection)

    async def describe_target(self) -> str:
        """What the table holds; see `DescribesTarget`."""
        assert isinstance(self.connection, PostgresConnection)
        return await target.describe(self.connection, self.params.table, str(self.params.mode))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await close(opened)

    async def write(self, batch: Batch) -> None:
        """Add or merge the records in one transaction.

        Raises:
            BatchError: the table refused some records.
            TransientError: the server cannot be reached, or another transaction had precedence.
            FatalError: the table cannot be written.
        """
        assert self._reader is not None, "enter the sink first"
        for _ in range(_LOOKS):
            try:
                async with self._turn:
                    await self._write(batch, self._reader)
                return
            except StaleError:
                self._reader.doubt(batch)
            except TransientError:
                self._reader.doubt(batch)  # the transaction may have been committed nevertheless
                raise
        raise TransientError(f"another process is writing the same part of run {self.ctx.run_id}")

    async def _write(self, batch: Batch, reader: Reader) -> None:
        merges = self.params.mode is Mode.MERGE
        indices = list(range(len(batch))) if merges else await reader.missing(batch)
        if not indices:
            return
        rows = rows_of(batch.records)
        if len(indices) < len(rows):
            batch, rows = batch.take(indices), [rows[index] for index in indices]
        failures = self._without_key(rows)
        async with self._connection() as connection:
            if (self.params.evolve or not self._columns) and (
                changes := changes_for(rows, self._columns, self.params.columns, DIALECT)
            ):
                await self._alter(connection, changes)
        values, misfits = fill(rows, self._columns, DIALECT)
        failures = {**misfits, **failures}
        if not values:
            empty = RecordError("no field of the record has a value", kind="EmptyRecord")
            failures = dict.fromkeys(range(len(rows)), empty)
        good = [index for index in range(len(rows)) if index not in failures]

        async def merge(part: Sequence[int]) -> None:
            rounds = merge_rounds(part, rows, self.params.key)
            fields = [[name for name in values if name in rows[one[0]]] for one in rounds]
            async with self._connection() as connection:
                await self._merge(connection, values, list(zip(rounds, fields, strict=True)))

        async def add(part: Sequence[int]) -> None:
            chosen = batch if len(part) == len(batch) else batch.take(part)
            async with self._connection() as connection:
                await self._append(connection, values, part, chosen)

        failures |= await deliver_all(good, merge if merges else add)
        if failures:
            raise BatchError({indices[index]: error for index, error in failures.items()})

    async def run_completed(self) -> None:
        """Put the new rows in the place of the old ones, and forget the entries of the run.

        Raises:
            TransientError: the server cannot be reached, and new rows are not in their place yet.
        """
        if self.params.mode is Mode.MERGE:
            return
        for wait in (1.0, 2.0, 4.0, 8.0, None):
            try:
                async with self._connection() as connection, connection.transaction():
                    await self._complete(connection)
                return
            except TransientError:
                if self.params.mode is Mode.APPEND:
                    return  # the rows are there; their entries are forgotten after a while
                if wait is None:
                    raise
                await self.ctx.clock.sleep(wait)

    async def _complete(self, connection: Connection) -> None:
        replaces = self.params.mode is Mode.REPLACE
        if replaces and await self._ledger.is_replaced(connection):
            return
        if replaces:
            await self._check_staging(connection)
            await self._replace(connection)
        if not self.ctx.chunk:  # the other parts of the run may still be under way
            await self._ledger.forget(connection)
        if replaces:
            await self._ledger.note_replaced(connection)

    async def count_records(self, delivered: Delivered) -> list[Check]:
        """Compare the entries of the run with the engine's ledger."""
        what = f"rows added to {self.params.table}"
        if self.params.mode is Mode.MERGE:
            return [Check(what, delivered.records, note="merged rows do not tell which run they are of")]
        if self.ctx.chunk:
            return [Check(what, delivered.records, note="other parts of the run add rows too")]
        async with self._connection() as connection:
            return [Check(what, delivered.records, await self._ledger.count(connection))]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """The connection of this sink; one that failed is closed, and opened anew next time."""
        if not isinstance(self.connection, PostgresConnection):
            raise FatalError("the postgres sink needs a connection with the `url` of the database")
        key = ", ".join(self.params.key)
        with translated(self.connection.place, table=self.params.table, key=key):
            if self._open is None:
                self._open = await connect(self.connection)
                self._staged = ()
                await self._prepare(self._open)
            try:
                yield self._open
            except BaseException:
                opened, self._open = self._open, None
                if opened is not None:
                    await close(opened)
                raise

    async def _prepare(self, connection: Connection) -> None:
        if self.params.mode is not Mode.MERGE:
            await self._ledger.prepare(connection)
        self._columns = await table_columns(connection, self._table)

    async def _known(self, split: str) -> list[tuple[str, Sequence[int]]]:
        async with self._connection() as connection:
            return await self._ledger.known(connection, split)

    def _without_key(self, rows: Sequence[Any]) -> dict[int, RecordError]:
        return {
            index: RecordError(f"no value in the key field {name!r}", kind="MissingKey")
            for name in self.params.key
            for index, row in enumerate(rows)
            if row.get(name) is None
        }

    async def _alter(self, connection: Connection, changes: Changes) -> None:
        table = quote_table(self._table)
        async with connection.transaction():
            await self._ledger.lock(connection, [("schema", self._table)])
            if not self._columns:
                made = [f"{quote(column.name)} {column.sql}" for column in changes.added]
                if self.params.mode is Mode.MERGE:
                    made.append(f"PRIMARY KEY ({', '.join(map(quote, self.params.key))})")
                await connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(made)})".encode())
            # also those of a table that another process has just made
            steps = [f"ADD COLUMN IF NOT EXISTS {quote(one.name)} {one.sql}" for one in changes.added]
            steps += [f"ALTER COLUMN {quote(one.name)} TYPE {one.sql}" for one in changes.widened]
            await connection.execute(f"ALTER TABLE {table} {', '.join(steps)}".encode())
        self._columns = await table_columns(connection, self._table)

    async def _append(
        self, connection: Connection, values: dict[str, list[Any]], part: Sequence[int], batch: Batch
    ) -> None:
        entries = entries_of(batch, distinct=self.ctx.distinct_keys)
        data = copy_data([_chosen(column, part) for column in values.values()])
        async with connection.transaction():
            await self._ledger.check(connection, [entry.split for entry in entries])
            await _copy(connection, quote_table(self._table), list(values), data)
            await self._ledger.add(connection, entries)
            reached("rows_committing")
        reached("rows_committed")
        self._ledger.committed(entries)

    async def _merge(
        self,
        connection: Connection,
        values: dict[str, list[Any]],
        rounds: Sequence[tuple[Sequence[int], Sequence[str]]],
    ) -> None:
        table, key = quote_table(self._table), self.params.key
        if self._staged != tuple(self._columns):
            await connection.execute(f"DROP TABLE IF EXISTS pg_temp.{_STAGE}".encode())
            await connection.execute(
                f"CREATE TEMP TABLE {_STAGE} ON COMMIT DELETE ROWS AS TABLE {table} WITH NO DATA".encode()
            )
            self._staged = tuple(self._columns)
        async with connection.transaction():
            for number, (part, names) in enumerate(rounds):
                if number:
                    await connection.execute(f"TRUNCATE pg_temp.{_STAGE}".encode())
                data = copy_data([_chosen(values[name], part) for name in names])
                await _copy(connection, f"pg_temp.{_STAGE}", names, data)
                listed = ", ".join(map(quote, names))
                updates = ", ".join(
                    f"{quote(one)} = excluded.{quote(one)}" for one in names if one not in key
                )
                action = f"UPDATE SET {updates}" if updates else "NOTHING"
                # in the order of the key: two processes that merge the same rows do not wait for each other
                await connection.execute(
                    f"INSERT INTO {table} ({listed}) SELECT {listed} FROM pg_temp.{_STAGE} "
                    f"ORDER BY {', '.join(map(quote, key))} "
                    f"ON CONFLICT ({', '.join(map(quote, key))}) DO {action}".encode()
                )
            reached("rows_committing")
        reached("rows_committed")

    async def _check_staging(self, connection: Connection) -> None:
        staged = 0
        if await table_columns(connection, self._table):
            cursor = await connection.execute(f"SELECT count(*) FROM {quote_table(self._table)}".encode())
            staged = int((await cursor.fetchall())[0][0])
        check_staging(self.params.table, staged, await self._ledger.count(connection))

    async def _replace(self, connection: Connection) -> None:
        """Exchange the rows within the transaction; the table stays, with its views, grants and indexes."""
        table, staging = quote_table(self.params.table), quote_table(self._table)
        old = await table_columns(connection, self.params.table)
        new = await table_columns(connection, self._table)
        if new and not old:
            await connection.execute(f"CREATE TABLE {table} (LIKE {staging})".encode())
        for name, column in new.items() if old else ():
            if name not in old:
                await connection.execute(
                    f"ALTER TABLE {table} ADD COLUMN {quote(name)} {column.sql}".encode()
                )
        if old:
            await connection.execute(f"TRUNCATE {table}".encode())
        if new:
            listed = ", ".join(map(quote, new))
            await connection.execute(
                f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {staging}".encode()
            )
        schema, _, name = self.params.table.rpartition(".")
        cursor = await connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = coalesce(nullif(%s, ''), current_schema())",
            [schema],
        )
        for (found,) in await cursor.fetchall():
            if is_staging_of(found, name):
                await connection.execute(
                    f"DROP TABLE {quote_table(f'{schema}.{found}' if schema else found)}".encode()
                )


async def _copy(connection: Connection, table: str, names: Sequence[str], data: bytes) -> None:
    statement = f"COPY {table} ({', '.join(map(quote, names))}) FROM STDIN"
    async with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        await copy.write(data)


def _chosen(column: list[Any], part: Sequence[int]) -> Sequence[Any]:
    return column if len(part) == len(column) else [column[index] for index in part]
