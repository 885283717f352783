"""The DuckDB file: opening it, cursors for readers, and what its errors mean."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from engine.errors import (
    EngineError,
    StateCorruptError,
    StateError,
    StateFullError,
    StateReadOnlyError,
    StateVersionError,
)
from engine.service.system_tables import DIRTY_OF, create_tables
from engine.service.tables import Table, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Reader", "Storage", "state_error"]

_WORK = "query-"


class Reader:
    """One consistent look at the warehouse, on a cursor of its own; for one thread at a time."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: list[object] | None = None) -> DuckDBPyConnection:
        """Run a statement; fetch from what is returned before the next one."""
        return self._connection.execute(sql, parameters or [])

    def rows_of(self, table: Table) -> str:
        """SQL for the table's current rows: the table, or while it is dirty its newest row of each id."""
        found = self.execute(DIRTY_OF, [table.name]).fetchone()
        if not (found and found[0] and table.key):
            return quote(table.name)
        return (
            f"(SELECT * FROM {quote(table.name)} QUALIFY row_number() OVER "  # noqa: S608 -- quoted
            f"(PARTITION BY {quote(table.key)} ORDER BY {table.newest_first}) = 1)"
        )


class Storage:
    """The open database. `cursor` and `reading` may be called from any thread."""

    def __init__(self, path: Path, tables: Iterable[Table], memory_limit: str) -> None:
        self._path = path
        self._place = path.absolute()  # wherever the process may go
        self._tables = tuple(tables)
        # Extensions would be downloaded, and nothing here needs one.
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            # A checkpoint costs more than the rows since the last one. A log of this size is read again in
            # half a second by the next start, should there be no time for a checkpoint at the end.
            "checkpoint_threshold": "64MB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        self._lock = threading.Lock()
        self._root: DuckDBPyConnection | None = None
        self._file: os.stat_result | None = None
        self._readers: set[DuckDBPyConnection] = set()

    def open(self) -> None:
        """Open the file, create what is missing. Raises StateError and its kinds."""
        import duckdb  # takes 0.2 s: only those who open a warehouse pay for it

        connection = None
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = duckdb.connect(str(self._path), config=self._config)
            self._path.chmod(0o600)  # rows may be about patients
            create_tables(connection, self._tables)
            for left in self.snapshots.glob(f"{_WORK}*"):  # by a service that was killed
                shutil.rmtree(left, ignore_errors=True)
            self._close_off(connection)
            self._file = os.stat(self._path)
        except (OSError, duckdb.Error) as error:
            if connection is not None:
                connection.close()
            raise state_error(error, self._path) from error
        except EngineError:
            assert connection is not None
            connection.close()
            raise
        self._root = connection

    @property
    def snapshots(self) -> Path:
        """The folder of the snapshots: the only one that the open database may touch."""
        return self._place.parent / "snapshots"

    def _close_off(self, connection: DuckDBPyConnection) -> None:
        """Leave the database no files but the snapshots', no network and no extensions, for good."""
        folder = str(self.snapshots).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{folder}/']")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def snapshot(self, path: Path) -> None:
        """Copy the database as it is now into a new file in `snapshots`. Blocks. Raises StateError."""
        import duckdb

        cursor = self.cursor()
        try:
            self.snapshots.mkdir(mode=0o700, exist_ok=True)
            name = cursor.execute("SELECT current_database()").fetchall()[0][0]
            cursor.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS odw_snapshot")
            try:
                cursor.execute(f"COPY FROM DATABASE {quote(name)} TO odw_snapshot")
            finally:
                cursor.execute("DETACH odw_snapshot")
            path.chmod(0o600)  # rows may be about patients
        except (OSError, duckdb.Error) as error:
            path.unlink(missing_ok=True)
            raise state_error(error, path) from error
        finally:
            cursor.close()

    @contextmanager
    def working_folder(self) -> Iterator[Path]:
        """An empty folder that the open database may write to, removed afterwards. Raises StateError."""
        folder = self.snapshots / f"{_WORK}{uuid4().hex}"
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise state_error(error, folder) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def cursor(self) -> DuckDBPyConnection:
        """A connection of its own to the same database."""
        with self._lock:
            if self._root is None:
                raise StateError(f"the warehouse {self._path} is not open")
            return self._root.cursor()

    @contextmanager
    def query_cursor(self) -> Iterator[DuckDBPyConnection]:
        """A cursor without a transaction, for one query of a user; closed with the database."""
        cursor = self.cursor()
        with self._lock:
            self._readers.add(cursor)
        try:
            yield cursor
        finally:
            with self._lock:
                self._readers.discard(cursor)
            cursor.close()

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A read transaction: all its statements see the same state."""
        cursor = self.cursor()
        with self._lock:
            self._readers.add(cursor)
        try:
            cursor.begin()
            yield Reader(cursor)
        finally:
            with self._lock:
                self._readers.discard(cursor)
            cursor.close()

    def check_in_place(self) -> None:
        """Raise StateError when the open file is not the one at its path any more.

        What is written to a file that somebody has removed is lost, although writing it succeeds.
        """
        try:
            in_place = self._file is not None and os.path.samestat(self._file, os.stat(self._place))
        except OSError:
            in_place = False
        if not in_place:
            raise StateError(
                f"the warehouse {self._path} was removed or replaced while the service was running, so "
                "nothing is stored: restore it, or restart the service to use what is there now"
            )

    def reopen(self) -> None:
        """Close and open again: the only way on after DuckDB has declared the database invalid.

        Raises StateError and its kinds, also when the file is gone: there is no fresh start by surprise.
        """
        self.check_in_place()
        self.close()
        self.open()

    def close(self) -> None:
        """Close everything, readers included; what was committed is checkpointed. Idempotent."""
        import duckdb

        with self._lock:
            readers, self._readers = self._readers, set()
            root, self._root = self._root, None
        for connection in (*readers, root):
            if connection is not None:
                with suppress(duckdb.Error):
                    connection.close()


class WarehouseLockedError(StateError):
    """Another process has the warehouse open."""


def state_error(error: Exception, path: Path) -> StateError:
    """What an operating system's or DuckDB's error means for the user of the state directory."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "File too large" in text:
        return StateFullError(f"no space left for the warehouse {path}")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or any(
        part in text for part in ("Read-only file system", "Permission denied", "Operation not permitted")
    ):
        return StateReadOnlyError(f"cannot write to the warehouse {path}: {_first_line(text)}")
    if "lock on file" in text:
        return WarehouseLockedError(f"another process is using the warehouse {path}: {_first_line(text)}")
    if "newer version" in text or "version number" in text:
        return StateVersionError(f"another version of DuckDB wrote the warehouse {path}: {_first_line(text)}")
    if "not a valid DuckDB" in text or "Corrupt" in text or type(error).__name__ == "SerializationException":
        return StateCorruptError(f"cannot read the warehouse {path}: {_first_line(text)}")
    return StateError(f"cannot use the warehouse {path}: {_first_line(text)}")


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]
