"""One SQLite connection for an event loop: its set-up, its transactions and its worker thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from engine.errors import StateError, StateMissingError
from engine.state.schema import prepare
from engine.state.sqlite_errors import is_busy, translated
from engine.state.thread import Call, CallThread

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_SECONDS: Final = 10.0
_BUSY_PAUSE: Final = 0.02
_WAL_BYTES: Final = 16 * 1024 * 1024
_WAL_SUFFIX: Final = "-wal"
_CHECKED_BYTES: Final = 8 * 1024 * 1024
_OWN_NAMES: Final = ("state.sqlite3", "warehouse")
_OF_ONE_STATEMENT: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class SqliteConnection(sqlite3.Connection):
    """SQLite's own connection as a `Connection`, without overhead per statement."""

    place = ""

    def hold_run(self, run_id: str, *, alone: bool) -> None:
        """Do nothing: a writer has exclusive access to the file."""

    def overwrite_deleted(self) -> None:
        """Overwrite deleted data with zeros (sqlite.org/pragma.html)."""
        self.execute("PRAGMA secure_delete = ON")


class SqliteDatabase:
    """A SQLite file used from coroutines.

    Calls run in a worker thread, never in the event loop. A call that has begun is finished even if its task
    is cancelled, so a transaction is either committed or rolled back.

    Writes that arrive while the thread is busy are committed together: one transaction, one sync, and none of
    them returns earlier. A failing write is rolled back alone; if the transaction fails, all fail.

    Args:
        path: the file; it and its directory are created (modes 0600 and 0700) unless `create` is False.
        create: whether a missing file is created.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._create = create
        self._connection: SqliteConnection | None = None
        self._place = path.absolute()  # even if the process changes its directory
        self._file: os.stat_result | None = None
        self._wal: os.stat_result | None = None
        self._thread: CallThread | None = None

    async def open(self) -> None:
        """Open the file, check it and bring its tables up to date. May be called again after `close`."""
        self._thread = CallThread(self._open, self._serve, self._close)
        try:
            await self._thread.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; waits for a call that is still running. Not interrupted by cancellation."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()

    async def read(self, function: Callable[Concatenate[SqliteConnection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` on one consistent view of the data."""
        return await self._make(Call(lambda connection: function(connection, *args, **kwargs)))

    async def write(self, function: Callable[Concatenate[SqliteConnection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` in a transaction that is durable when this returns."""
        return await self._make(Call(lambda connection: function(connection, *args, **kwargs), writes=True))

    async def _make(self, call: Call[T]) -> T:
        if self._thread is None:
            raise StateError(f"{self.path} is not open; use it inside `async with`")
        with translated(self.path):  # created here, since each call raises its own instance of a shared error
            return await self._thread.make(call)

    def _serve(self, calls: Sequence[Call[Any]]) -> Iterator[Sequence[Call[Any]]]:
        """Make calls that arrived together; reads need not wait for a commit."""
        reads = [call for call in calls if not call.writes]
        for call in reads:
            self._transact([call], "BEGIN")
        if reads:
            yield reads
        writes = [call for call in calls if call.writes]
        if writes:
            trouble = self._trouble()
            if trouble is None:
                self._transact(writes, "BEGIN IMMEDIATE")
            else:
                for call in writes:
                    call.error = copy(trouble)
            yield writes

    def _transact(self, calls: Sequence[Call[Any]], begin: str) -> None:
        """Make calls in one transaction; afterwards each has its result or its error."""
        connection = self._connection
        assert connection is not None, "the thread works only while the file is open"
        try:
            with in_transaction(connection, begin):
                if len(calls) == 1:
                    calls[0].result = calls[0].function(connection)
                else:
                    for call in calls:
                        _make_apart(call, connection)
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller
            for call in calls:
                call.error = call.error or error

    def _open(self) -> None:
        with translated(self.path):
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
            self._file, self._wal = os.stat(self._place), None
            self._connection = connection

    def _trouble(self) -> Exception | None:
        """Return why writing must stop, e.g. since writes to a moved file would be lost silently."""
        path = self.path
        try:
            if self._file is not None and os.path.samestat(self._file, os.stat(self._place)):
                path = Path(f"{self.path}{_WAL_SUFFIX}")
                if self._log_is_there():
                    return None
        except FileNotFoundError:
            pass
        except OSError as error:
            return error
        return StateError(
            f"{path} was removed or replaced while in use, so nothing more can be stored: restore "
            "it, or start over"
        )

    def _log_is_there(self) -> bool:
        """Return whether the write-ahead log is still the same file; it exists while a connection is open."""
        try:
            wal = os.stat(f"{self._place}{_WAL_SUFFIX}")
        except FileNotFoundError:
            return self._wal is None
        self._wal = self._wal or wal
        return os.path.samestat(self._wal, wal)

    def _make_file(self) -> None:
        """Create missing files, private to this user; the -wal and -shm files inherit the mode.

        An existing file is not even opened here: closing any descriptor of it would drop the locks that
        another connection of this process holds (sqlite.org/howtocorrupt.html, 2.2).
        """
        if not self._create:
            if not self.path.exists():
                raise StateMissingError(
                    f"{self.path} does not exist: nothing has run with this state directory yet; name "
                    "another one with --state-dir"
                )
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            _keep_private(self.path, 0o600)
        if all(name.startswith(_OWN_NAMES) for name in os.listdir(self.path.parent)):
            _keep_private(self.path.parent, 0o700)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _keep_private(path: Path, mode: int) -> None:
    """Remove other users' permissions from a file or folder of this user, which may contain whole records."""
    status = path.stat()
    if status.st_mode & 0o077 and hasattr(os, "geteuid") and status.st_uid == os.geteuid():
        path.chmod(mode)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Check a small file for damage before its content is used. For a large one this would take too long.

    Raises:
        StateCorruptError: it is damaged.
    """
    if 0 < path.stat().st_size <= _CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            error = sqlite3.DatabaseError(found.rpartition("\n")[2])
            error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
            raise error


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    _check(connection, path)
    connection.execute("PRAGMA foreign_keys = ON")
    # in WAL mode, NORMAL may lose the last commits in a power failure; FULL syncs each one
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    with in_transaction(connection, "BEGIN IMMEDIATE"):
        prepare(connection, path)
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. Only this may fail as "busy" without waiting first."""
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


def _make_apart(call: Call[Any], connection: SqliteConnection) -> None:
    """Make one of several calls in a transaction. Raises only errors that affect all of them."""
    connection.execute("SAVEPOINT one")
    try:
        call.result = call.function(connection)
    except BaseException as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_ONE_STATEMENT):
            raise  # an error of the disk or file: the rest of the transaction cannot be trusted
        connection.execute("ROLLBACK TO one")
        call.error = error
    connection.execute("RELEASE one")


@contextmanager
def in_transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Commit the block's changes, or roll them back if it raises."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back automatically after some errors
            with suppress(sqlite3.Error):  # the first error is the one to show; closing rolls back too
                connection.execute("ROLLBACK")
        raise
