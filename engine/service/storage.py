"""The DuckDB file: opening it, cursors for readers, and translation of its errors."""

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
from engine.service.system_tables import create_tables
from engine.service.tables import Table, number_of, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_WORK = "query-"


class Reader:
    """A consistent view of the warehouse on a separate cursor, for one thread at a time."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: list[object] | None = None) -> DuckDBPyConnection:
        """Run a statement; fetch from the result before running the next one."""
        return self._connection.execute(sql, parameters or [])

    def is_dirty(self, table: Table) -> bool:
        """Return whether the table may contain duplicate ids."""
        dirty = "SELECT count(*) FROM _odw_tables WHERE dirty AND table_name = ?"
        return number_of(self, dirty, table.name) > 0

    def rows_of(self, table: Table) -> str:
        """Return SQL for the current rows: the table, or while it is dirty the newest row of each id."""
        if not (table.key and self.is_dirty(table)):
            return quote(table.name)
        return (
            f"(SELECT * FROM {quote(table.name)} QUALIFY row_number() OVER "  # noqa: S608 -- quoted
            f"(PARTITION BY {quote(table.key)} ORDER BY {table.newest_first}) = 1)"
        )


class Storage:
    """The open database. `cursor` and `reading` may be called from any thread."""

    def __init__(self, path: Path, tables: Iterable[Table], memory_limit: str) -> None:
        self._path = path
        self._place = path.absolute()  # even if the process changes its directory
        self._tables = tuple(tables)
        # extensions would be downloaded, and none is needed
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            # a checkpoint costs more than the rows since the last one; if there is no time for one at the
            # end, the next start reads a log of this size in half a second
            "checkpoint_threshold": "64MB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        self._lock = threading.Lock()
        self._root: DuckDBPyConnection | None = None
        self._file: os.stat_result | None = None
        self._readers: set[DuckDBPyConnection] = set()

    def open(self) -> None:
        """Open the file, and create what is missing. Raises StateError or a subclass."""
        import duckdb  # imported late, since it takes 0.2 s

        connection = None
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = duckdb.connect(str(self._path), config=self._config)
            self._path.chmod(0o600)  # rows may be about patients
            create_tables(connection, self._tables)
            for left in self.snapshots.glob(f"{_WORK}*"):  # left by a killed service
                shutil.rmtree(left, ignore_errors=True)
            self._close_off(connection)
            self._file = os.stat(self._path)
        except (OSError, duckdb.Error, EngineError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, EngineError):
                raise
            raise state_error(error, self._path) from error
        self._root = connection

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots, the only one that the open database may access."""
        return self._place.parent / "snapshots"

    def _close_off(self, connection: DuckDBPyConnection) -> None:
        """Permanently restrict the database to the snapshots' folder, without network and extensions."""
        folder = str(self.snapshots).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{folder}/']")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def snapshot(self, path: Path) -> None:
        """Copy the current database into a new file in `snapshots`. Blocks. Raises StateError."""
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
        """Provide an empty temporary folder that the open database may write to. Raises StateError."""
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
        """Return a new connection to the same database."""
        with self._lock:
            if self._root is None:
                raise StateError(f"the warehouse {self._path} is not open")
            return self._root.cursor()

    @contextmanager
    def query_cursor(self) -> Iterator[DuckDBPyConnection]:
        """Return a cursor without a transaction, for one query of a user; closed with the database."""
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
        """Provide a read transaction, whose statements all see the same state."""
        with self.query_cursor() as cursor:
            cursor.begin()
            yield Reader(cursor)

    def check_in_place(self) -> None:
        """Raise StateError when the open file is no longer the one at its path.

        Writes to a removed file succeed, but are lost.
        """
        try:
            in_place = self._file is not None and os.path.samestat(self._file, os.stat(self._place))
        except OSError:
            in_place = False
        if not in_place:
            raise StateError(
                f"the warehouse {self._path} was removed or replaced while the service was running, so "
                "nothing is stored: restore it, or restart the service to use the current file"
            )

    def reopen(self) -> None:
        """Close and reopen the file, the only remedy after DuckDB has declared the database invalid.

        Raises StateError or a subclass, also when the file is gone: it never silently starts over.
        """
        self.check_in_place()
        self.close()
        self.open()

    def close(self) -> None:
        """Close everything, including readers, after a checkpoint. Idempotent."""
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
    """Translate an error of the operating system or of DuckDB for the user of the state directory."""
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
