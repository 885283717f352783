"""The sink `postgres`."""
# ruff: noqa: S608 -- names are quoted or constants, values are bound

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import anyio
from pydantic import BaseModel

from connectors.postgres.copying import copy_data
from connectors.postgres.database import (
    DIALECT,
    PostgresConnection,
    close,
    connect,
    connected,
    is_idle,
    table_columns,
    translated,
)
from connectors.postgres.ledger import Ledger, StaleError
from connectors.postgres.staging import check_replaceable, create_like, exchange, rehearse
from connectors.tables.columns import Changes, Row
from connectors.tables.deliveries import LedgerRow, entries_of
from connectors.tables.isolation import RowsRefusedError, replacing
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
from engine.contract.component import Kind, component
from engine.errors import FatalError, TransientError
from engine.fault_injection import reached

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

_STAGE: Final = "_odw_stage"
_SEARCH_PATH: Final = re.compile(r"search_path\s*=\s*\"?(\w+)")
_LOOKS: Final = 5


class PostgresSinkParams(TableSinkParams):
    """Parameters of the `postgres` sink."""


def _claim(params: PostgresSinkParams) -> Claim:
    def located(connection: Mapping[str, Any]) -> tuple[object, str]:
        url = urlsplit(str(connection.get("url")))
        options = " ".join(parse_qs(url.query).get("options", []))
        schema = found[1] if (found := _SEARCH_PATH.search(options)) else "public"
        named = params.table if "." in params.table else f"{schema}.{params.table}"
        return (url.netloc.rpartition("@")[2].removesuffix(":5432"), url.path), named

    return table_claim(params, located=located)


@component(
    Kind.SINK,
    "postgres",
    params=PostgresSinkParams,
    connection=PostgresConnection,
    extra="postgres",
    whole_run=needs_whole_run,
    claim=_claim,
)
class PostgresSink(TableSink[PostgresSinkParams]):
    """Writes records to a table of PostgreSQL, by COPY.

    The table is created from the first records and gets a column for each new field. Every batch is one
    transaction: appended with an entry of its records in `_odw_batches`, so that a resumed run adds nothing
    twice, or copied into a temporary table and merged by key. A record that the table refuses becomes a dead
    letter, without the rest of its batch.
    """

    dialect = DIALECT

    def __init__(self, params: PostgresSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._turn = anyio.Lock()
        self._open: Connection | None = None
        self._staged: tuple[str, ...] = ()
        self._ledger = Ledger("", "", "")

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect, if the server is available."""
        stack.push_async_callback(self._close)
        self._ledger = Ledger(self._begin(), f"{self.ctx.pipeline}.{self.ctx.node}", self.params.table)
        with suppress(TransientError):  # the first write waits for the server
            async with self._connection():
                pass

    async def check_connection(self) -> str:
        """Log in; see `ChecksConnection`."""
        assert isinstance(self.connection, PostgresConnection)
        async with connected(self.connection) as opened:
            cursor = await opened.execute("SELECT current_user, current_setting('server_version')")
            ((user, version),) = await cursor.fetchall()
        return f"logged in as {user}, PostgreSQL {version}"

    async def describe_target(self) -> str:
        """Describe the rows of the table; see `DescribesTarget`."""
        assert isinstance(self.connection, PostgresConnection)
        params = self.params
        named = f"table {params.table}, mode {params.mode}"
        async with connected(self.connection) as opened:
            columns = await table_columns(opened, params.table)
            if not columns:
                return f"{named}: not there yet"
            if params.mode is Mode.REPLACE:
                await check_replaceable(opened, params.table)
            cursor = await opened.execute(f"SELECT count(*) FROM {quote_table(params.table)}".encode())
            ((rows,),) = await cursor.fetchall()
        return f"{named}: {rows:,} rows, {len(columns)} columns"

    async def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await close(opened)

    async def write(self, batch: Batch) -> None:
        """Add or merge the records in one transaction.

        Raises:
            BatchError: the table refused some records.
            TransientError: the server cannot be reached, or another transaction conflicted.
            FatalError: the table cannot be written.
        """
        for _ in range(_LOOKS):
            try:
                async with self._turn:
                    await self._deliver(batch)
                return
            except StaleError:
                self._reader.doubt(batch)
            except TransientError:
                self._reader.doubt(batch)  # the transaction may have been committed nevertheless
                raise
        raise TransientError(f"another process is writing the same part of run {self.ctx.run_id}")

    async def run_completed(self) -> None:
        """Replace the old rows if the mode says so, and delete the entries of the run.

        Raises:
            TransientError: the server cannot be reached before the old rows were replaced.
        """
        if self.params.mode is Mode.MERGE:
            return
        try:
            with replacing(self.params.table):
                async with self._connection() as connection, connection.transaction():
                    await self._complete(connection)
        except TransientError:
            if self.params.mode is Mode.REPLACE:
                raise
            # the rows are in the table; their entries are deleted after a while

    async def _complete(self, connection: Connection) -> None:
        replaces = self.params.mode is Mode.REPLACE
        if replaces and await self._ledger.is_replaced(connection):
            return
        if replaces:
            staged = await self._check_staging(connection)
            self._note_left_out(staged - await exchange(connection, self.params.table, self._table))
        if not self.ctx.chunk:  # the other parts of the run may still be running
            await self._ledger.forget(connection)
        if replaces:
            await self._ledger.note_replaced(connection)

    async def _count(self) -> int:
        async with self._connection() as connection:
            return await self._ledger.count(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Use the sink's connection; one that failed is closed, and the next use opens another."""
        if not isinstance(self.connection, PostgresConnection):
            raise FatalError("the postgres sink needs a connection with the `url` of the database")
        key = ", ".join(self.params.key)
        opened = self._open
        try:
            with translated(self.connection.place, table=self.params.table, key=key):
                if opened is None:
                    opened = await connect(self.connection)
                    await self._prepare(opened)
                    self._open = opened
                yield opened
        except BaseException as error:
            # a new connection for each refused row would cost more than the row
            usable = self._open is opened and isinstance(error, RowsRefusedError) and is_idle(opened)
            if opened is not None and not usable:
                self._open = None
                await close(opened)
            raise

    async def _prepare(self, connection: Connection) -> None:
        self._staged = ()
        if self.params.mode is not Mode.MERGE:
            await self._ledger.prepare(connection)
        self._columns = await table_columns(connection, self._table)
        if self._table != self.params.table:
            self._replaced = await table_columns(connection, self.params.table)
            await check_replaceable(connection, self.params.table)
            await rehearse(connection, self.params.table, self._table)

    async def _any_value(self, name: str, condition: str) -> bool:
        query = f"SELECT 1 FROM {quote_table(self._table)} WHERE {quote(name)} {condition} LIMIT 1"
        async with self._connection() as connection:
            return bool(await (await connection.execute(query.encode())).fetchall())

    async def _known(self, split: str) -> list[LedgerRow]:
        async with self._connection() as connection:
            return await self._ledger.known(connection, split)

    async def _evolve(self, rows: Sequence[Row]) -> None:
        async with self._connection():  # the columns are known only then
            await super()._evolve(rows)

    async def _alter(self, changes: Changes) -> None:
        table = quote_table(self._table)
        async with self._connection() as connection:
            async with connection.transaction():
                await self._ledger.lock(connection, [("schema", self._table)])
                if self._replaced and not self._columns:
                    await create_like(connection, self.params.table, self._table, self.params.columns)
                elif not self._columns:
                    made = [f"{quote(column.name)} {column.sql}" for column in changes.added]
                    if self.params.mode is Mode.MERGE:
                        made.append(f"PRIMARY KEY ({', '.join(map(quote, self.params.key))})")
                    await connection.execute(
                        f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(made)})".encode()
                    )
                # also for a table that another process has just created
                steps = [f"ADD COLUMN IF NOT EXISTS {quote(one.name)} {one.sql}" for one in changes.added]
                steps += [f"ALTER COLUMN {quote(one.name)} TYPE {one.sql}" for one in changes.widened]
                await connection.execute(f"ALTER TABLE {table} {', '.join(steps)}".encode())
                if self._replaced:
                    await rehearse(connection, self.params.table, self._table)
            self._columns = await table_columns(connection, self._table)

    async def _append(self, values: Values, part: Sequence[int], batch: Batch) -> None:
        entries = entries_of(batch, distinct=self.ctx.distinct_keys)
        async with self._connection() as connection:
            data = copy_data([chosen(column, part) for column in values.values()])
            async with connection.transaction():
                await self._ledger.check(connection, [entry.split for entry in entries])
                added = await _copy(connection, quote_table(self._table), list(values), data)
                await self._ledger.add(connection, entries)
                reached("rows_committing")
            reached("rows_committed")
            self._ledger.committed(entries)
            self._note_left_out(len(part) - added)

    def _note_left_out(self, rows: int) -> None:
        if rows:
            self.ctx.count(f"skipped: left out by a trigger of {self.params.table}", rows)

    async def _merge(self, values: Values, rounds: Rounds) -> None:
        table, key = quote_table(self._table), self.params.key
        async with self._connection() as connection:
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
                    data = copy_data([chosen(values[name], part) for name in names])
                    await _copy(connection, f"pg_temp.{_STAGE}", names, data)
                    listed = ", ".join(map(quote, names))
                    updates = ", ".join(
                        f"{quote(one)} = excluded.{quote(one)}" for one in names if one not in key
                    )
                    action = f"UPDATE SET {updates}" if updates else "NOTHING"
                    keys = ", ".join(map(quote, key))
                    # ordered by key: two processes that merge the same rows do not deadlock. The last of
                    # keys that only the column's type makes equal, such as 1 and 1.0, as for all others
                    await connection.execute(
                        f"INSERT INTO {table} ({listed}) OVERRIDING SYSTEM VALUE "
                        f"SELECT DISTINCT ON ({keys}) {listed} FROM pg_temp.{_STAGE} "
                        f"ORDER BY {keys}, ctid DESC ON CONFLICT ({keys}) DO {action}".encode()
                    )
                reached("rows_committing")
            reached("rows_committed")

    async def _check_staging(self, connection: Connection) -> int:
        staged = 0
        if await table_columns(connection, self._table):
            cursor = await connection.execute(f"SELECT count(*) FROM {quote_table(self._table)}".encode())
            staged = int((await cursor.fetchall())[0][0])
        check_staging(self.params.table, staged, await self._ledger.count(connection))
        return staged


async def _copy(connection: Connection, table: str, names: Sequence[str], data: bytes) -> int:
    """Copy rows, and return how many the table has taken."""
    statement = f"COPY {table} ({', '.join(map(quote, names))}) FROM STDIN"
    async with connection.cursor() as cursor:
        async with cursor.copy(statement.encode()) as copy:
            await copy.write(data)
        return cursor.rowcount
