"""A DuckDB file, opened in a worker thread, and what its errors mean."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread
from pydantic import Field

from connectors.tables.columns import Column, Dialect, ValueType
from connectors.tables.isolation import RowsRefusedError
from engine.contract.component import Params, operational
from engine.contract.params import LocalPath
from engine.errors import FatalError, TransientError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


def _fold(name: str) -> str:
    """Fold a name as DuckDB does, which ignores the case of ASCII letters only."""
    return name.translate(_LOWER)


DIALECT: Final = Dialect(
    database="DuckDB",
    types={
        ValueType.BOOLEAN: "BOOLEAN",
        ValueType.INTEGER: "BIGINT",
        ValueType.FLOAT: "DOUBLE",
        ValueType.NUMERIC: "DECIMAL(38,9)",
        ValueType.TEXT: "VARCHAR",
        ValueType.JSON: "JSON",
        ValueType.TIMESTAMP: "TIMESTAMPTZ",
        ValueType.DATE: "DATE",
        ValueType.BYTES: "BLOB",
    },
    integers={"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "INT": 32, "BIGINT": 64},
    known={
        ValueType.BOOLEAN: ("BOOLEAN",),
        ValueType.FLOAT: ("FLOAT", "DOUBLE"),
        ValueType.NUMERIC: ("DECIMAL", "NUMERIC"),
        ValueType.TEXT: ("VARCHAR", "TEXT"),
        ValueType.JSON: ("JSON",),
        ValueType.TIMESTAMP: ("TIMESTAMPTZ", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"),
        ValueType.DATE: ("DATE",),
        ValueType.BYTES: ("BLOB",),
    },
    fold=_fold,
)

_POLL_SECONDS: Final = 0.2
_QUOTED: Final = re.compile(r"""(["']).*\1""", re.DOTALL)
_COMPUTED: Final = "a generated column"
_LEAVE_OUT: Final = "; leave the field out before the sink: map: {drop: […]}"
_VALUE: Final = re.compile(r"with value \S+")
_HOLDER: Final = re.compile(r"held in (\S+) \(PID (\d+)\)")


class DuckdbParams(Params):
    """Parameters of the source and the sink."""

    path: LocalPath = Field(
        min_length=1, description="The DuckDB file; a sink creates it if it does not exist"
    )
    lock_timeout: float = operational(
        10.0, ge=0, description="How long to wait for another process that has the file open, in seconds"
    )
    memory_limit: str = operational(
        "1GB", pattern=r"^\d+(\.\d+)?\s?[KMGT]i?B$", description="Memory that DuckDB may use for the file"
    )


class Database:
    """One connection to a file. Calls run in a worker thread, one at a time, and finish even if cancelled.

    Args:
        params: the file and its limits.
        read_only: open an existing file for reading only.
        lock_timeout: overrides that of `params`.
    """

    def __init__(
        self, params: DuckdbParams, *, read_only: bool = False, lock_timeout: float | None = None
    ) -> None:
        self.path = str(Path(params.path).expanduser())
        self._place = Path(self.path).absolute()  # stays valid if the process changes its working directory
        self._lock_timeout = params.lock_timeout if lock_timeout is None else lock_timeout
        self._memory_limit = params.memory_limit
        self._read_only = read_only
        self._connection: DuckDBPyConnection | None = None
        self._file: os.stat_result | None = None
        self._turn = anyio.Lock()

    async def open(self) -> None:
        """Open the file.

        Raises:
            FatalError: it cannot be opened, or another process has it open for longer than `lock_timeout`.
        """
        until = time.monotonic() + self._lock_timeout
        while True:
            try:
                self._connection = await anyio.to_thread.run_sync(self._connect)
                return
            except _LockedError as error:
                if time.monotonic() >= until:
                    raise FatalError(str(error)) from None
            await anyio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Close it, writing pending changes to the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(connection.close)

    async def run(self, work: Callable[[DuckDBPyConnection], T]) -> T:
        """Call `work` with the connection; a transaction that it leaves open is rolled back.

        Raises:
            RowsRefusedError: DuckDB refused the rows.
            TransientError, FatalError: any other failure, or the file was replaced since it was opened.
        """
        assert self._connection is not None, "open the database first"
        async with self._turn:
            return await anyio.to_thread.run_sync(partial(self._work, work, self._connection))

    async def columns(self, table: str) -> dict[str, Column]:
        """See `columns_of`."""
        return await self.run(lambda connection: columns_of(connection, table))

    async def fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a small query."""
        return await self.run(lambda connection: connection.execute(query, list(values)).fetchall())

    def _work(self, work: Callable[[DuckDBPyConnection], T], connection: DuckDBPyConnection) -> T:
        import duckdb

        with self._translated():
            try:
                result = work(connection)
                self._check_place()
                return result
            except BaseException:
                with suppress(duckdb.Error):  # no transaction was open
                    connection.rollback()
                raise

    def _check_place(self) -> None:
        """Check that the file was not removed or replaced: writes to a removed file succeed and are lost."""
        try:
            if self._file is None or os.path.samestat(self._file, os.stat(self._place)):
                return
        except OSError:
            pass
        raise FatalError(
            f"{self.path} was removed or replaced while it was in use: put it back and resume the run, which "
            "does not write again what was in it, or start a new run"
        )

    def _connect(self) -> DuckDBPyConnection:
        import duckdb

        path = Path(self.path)
        if self._read_only and not path.exists():
            raise FatalError(f"there is no file {self.path}")
        if not path.parent.is_dir():
            raise FatalError(f"there is no folder {path.parent} for {path.name}: make it first")
        with self._translated():
            try:
                connection = duckdb.connect(self.path, read_only=self._read_only)
            except duckdb.ResourceInUseException:
                raise _LockedError(f"{self.path} is being closed by another node of this process") from None
            except duckdb.ConnectionException:
                if not self._read_only:
                    raise
                connection = duckdb.connect(self.path)  # a sink of this process has it open to write
            # a CSV file, for one, is opened as well: as a table in memory
            query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
            if connection.execute(query).fetchone() in (None, (None,)):
                connection.close()
                raise FatalError(f"{self.path} is not a DuckDB file: name another `path`")
            connection.execute("SET memory_limit = ?", [self._memory_limit])
            # by default a checkpoint, every 16 MB of log, costs more than the rows since the last one
            connection.execute("SET checkpoint_threshold = '64MB'")
            connection.execute("SET TimeZone = 'UTC'")
            self._file = None if self._read_only else os.stat(self._place)
            return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException) as error:
            if _COMPUTED in str(error):
                raise FatalError(f"{self.path}: {error}{_LEAVE_OUT}", kind="schema") from None
            line = str(error).partition("\n")[0].replace("can't", "cannot")  # its apostrophe is no quote
            text = _VALUE.sub("with a value", _QUOTED.sub("…", line))
            raise RowsRefusedError(f"DuckDB refused the row: {text}", kind=_kind(error)) from None
        except duckdb.TransactionException as error:
            raise TransientError(f"{self.path}: another transaction got in between: {error}") from error
        except duckdb.IOException as error:
            raise self._io_error(str(error)) from error
        except duckdb.Error as error:
            remedy = _LEAVE_OUT if _COMPUTED in str(error) else ""
            raise FatalError(f"{self.path}: {str(error).strip()}{remedy}", kind="schema") from error

    def _io_error(self, text: str) -> Exception:
        if "Could not set lock" in text:
            holder = _HOLDER.search(text)
            who = f"process {holder[2]} ({Path(holder[1]).name})" if holder else "another process"
            return _LockedError(
                f"{self.path} is open in {who}: only one process can write to a DuckDB file, and none can "
                "read it meanwhile; end that process, or raise `lock_timeout` to wait for it"
            )
        if "not a valid DuckDB" in text:
            return FatalError(f"{self.path} is not a DuckDB file: name another `path`")
        if "No space" in text or "not enough" in text.lower():
            return FatalError(f"no space left for {self.path}: free some, then resume the run")
        return FatalError(f"{self.path} cannot be used: {text.partition(chr(10))[0]}")


def columns_of(connection: DuckDBPyConnection, table: str) -> dict[str, Column]:
    """The columns of a table by folded name; empty when there is no such table."""
    schema, _, name = table.rpartition(".")
    found = connection.execute(
        "SELECT column_name, data_type, column_default IS NOT NULL FROM duckdb_columns() "
        "WHERE database_name = current_database() AND lower(schema_name) = lower(?) "
        "AND lower(table_name) = lower(?) ORDER BY column_index",
        [schema or "main", name],
    ).fetchall()
    return {DIALECT.fold(name): DIALECT.column(name, sql, default=default) for name, sql, default in found}


class _LockedError(FatalError):
    """Another process has the file open, or another node of this one is closing it."""


def _kind(error: Exception) -> str:
    import duckdb

    return "ConstraintViolated" if isinstance(error, duckdb.IntegrityError) else "ValueRefused"
