"""One SQLite connection for an event loop: its set-up, its transactions and its worker thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Concatenate, Final, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

from engine.errors import StateError
from engine.state.failures import is_busy, translated
from engine.state.schema import prepare

__all__ = ["SqliteConnection", "SqliteDatabase"]

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_SECONDS: Final = 10.0
_BUSY_PAUSE: Final = 0.02
_WAL_BYTES: Final = 16 * 1024 * 1024


class SqliteConnection(sqlite3.Connection):
    """SQLite's own connection as a `Connection`, at no cost for a statement."""

    place = ""

    def hold_run(self, run_id: str, *, alone: bool) -> None:
        """Nothing to do: whoever writes has the whole file alone."""

    def overwrite_deleted(self) -> None:
        """Zeros in the place of what is deleted (sqlite.org/pragma.html)."""
        self.execute("PRAGMA secure_delete = ON")


class SqliteDatabase:
    """A SQLite file used from coroutines.

    Calls run one at a time in a worker thread, never in the event loop. A call that has begun is finished
    even when its task is cancelled, so a transaction is either committed or rolled back.

    Args:
        path: the file; it and its directory are created (modes 0600 and 0700) unless `create` is False.
        create: whether a missing file is made.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._create = create
        self._connection: SqliteConnection | None = None
        self._place = path.absolute()  # wherever the process may go
        self._file: os.stat_result | None = None
        self._closed = False
        # The limiter queues coroutines in order. The lock is for threads: a task that asyncio itself
        # cancels leaves its thread behind, and closing has to wait for that one.
        self._limiter: CapacityLimiter | None = None
        self._lock = Lock()

    async def open(self) -> None:
        """Open the file, check it and bring its tables up to date. May be called again after `close`."""
        self._closed = False
        self._limiter = CapacityLimiter(1)
        try:
            await to_thread.run_sync(self._open, limiter=self._limiter)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; waits for a call that is still running. Not interrupted by cancellation."""
        self._closed = True
        with CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    async def read(self, function: Callable[Concatenate[SqliteConnection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` on one consistent view of the data."""
        return await self._run(lambda connection: function(connection, *args, **kwargs), "BEGIN")

    async def write(self, function: Callable[Concatenate[SqliteConnection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` in a transaction that is on disk when this returns."""

        def call(connection: SqliteConnection) -> T:
            self._check_in_place()
            return function(connection, *args, **kwargs)

        return await self._run(call, "BEGIN IMMEDIATE")

    async def _run(self, function: Callable[[SqliteConnection], T], begin: str) -> T:
        def call() -> T:
            with self._lock, translated(self.path):
                if self._connection is None:
                    raise StateError(f"{self.path} is not open; use it inside `async with`")
                with _transaction(self._connection, begin):
                    return function(self._connection)

        return await to_thread.run_sync(call, limiter=self._limiter)

    def _open(self) -> None:
        with self._lock, translated(self.path):
            if self._closed:
                return
            self._make_file()
            connection = sqlite3.connect(
                self.path,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=SqliteConnection,
            )
            try:
                connection.place = str(self.path.absolute())
                connection.row_factory = sqlite3.Row
                _set_up(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._file = os.stat(self._place)
            self._connection = connection

    def _check_in_place(self) -> None:
        """Refuse to write to a file that is not at its path any more: it would be lost, without an error."""
        try:
            in_place = self._file is not None and os.path.samestat(self._file, os.stat(self._place))
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise StateError(
                f"{self.path} was removed or replaced while it was in use, so nothing can be stored any more:"
                " put it back, or begin anew"
            )

    def _make_file(self) -> None:
        """Create what is missing, private to this user; the -wal and -shm files inherit the mode.

        An existing file is not even opened here: closing any descriptor of it would drop the locks that
        another connection of this process holds (sqlite.org/howtocorrupt.html, 2.2).
        """
        if not self._create:
            if not self.path.exists():
                raise StateError(
                    f"there is no {self.path}: nothing has run with this state directory yet, or --state-dir"
                    " has to name another one"
                )
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # In WAL mode NORMAL may lose the last commits when the power fails; FULL syncs each one.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    with _transaction(connection, "BEGIN IMMEDIATE"):
        prepare(connection, path)
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. Only here SQLite may answer "busy" without waiting first."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            with suppress(sqlite3.Error):  # the first error is the one to show; closing rolls back too
                connection.execute("ROLLBACK")
        raise
