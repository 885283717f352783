"""The state store for tests, and for runs without a state directory: SQLite's tables in memory."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import anyio.lowlevel

from engine.contract.journal import JournalEntry
from engine.errors import StateError
from engine.state import journal
from engine.state.connection import Connection
from engine.state.database import SqliteConnection, in_transaction
from engine.state.schema import prepare
from engine.state.sqlite_errors import translated
from engine.state.store import StateStore

P = ParamSpec("P")
T = TypeVar("T")

MAX_JOURNAL: Final = 10_000
"""Maximum answers kept; the oldest are dropped first."""

MAX_TRACES: Final = 200
"""Maximum prompts and replies kept, which are much larger than answers."""

_PLACE: Final = Path("memory")  # its name in error messages


_lock: Final = threading.Lock()


class _MemoryConnection(SqliteConnection):
    """A connection that needs no `close`: its data ends with it.

    Since Python 3.13 the finalizer of `sqlite3.Connection` warns, and a garbage collector that meets owner
    and connection in a cycle may call it before that of the owner.
    """

    def __del__(self) -> None:
        self.close()


def _connect() -> SqliteConnection:
    return sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, factory=_MemoryConnection
    )


@functools.cache
def _empty_tables() -> SqliteConnection:
    """What each database begins as: a copy takes a hundredth of the time of all migrations."""
    connection = _connect()
    prepare(connection, _PLACE)
    return connection


class MemoryDatabase:
    """A database that lives as long as this object, over several `open` and `close`.

    Calls run in the event loop: a statement takes microseconds, less than a thread switch.
    """

    def __init__(self) -> None:
        self._connection: SqliteConnection | None = None
        self.is_open = False

    async def open(self) -> None:
        """Accept calls from now on."""
        await anyio.lowlevel.checkpoint()
        self.start()

    def start(self) -> None:
        """Create the tables the first time, and accept calls from now on."""
        if self._connection is None:
            self._connection = _connect()
            self._connection.place = str(_PLACE)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA foreign_keys = ON")
            with _lock:
                _empty_tables().backup(self._connection)
        self.is_open = True

    async def close(self) -> None:
        """Reject calls until the next `open`; the data is kept."""
        self.is_open = False

    async def read(self, function: Callable[Concatenate[SqliteConnection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` on one consistent view of the data."""
        return await self._make("BEGIN", function, *args, **kwargs)

    async def write(self, function: Callable[Concatenate[SqliteConnection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` in a transaction."""
        return await self._make("BEGIN IMMEDIATE", function, *args, **kwargs)

    async def _make(self, begin: str, function: Callable[Concatenate[SqliteConnection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        await anyio.lowlevel.checkpoint_if_cancelled()
        if not self.is_open or self._connection is None:
            raise StateError("the store in memory is not open; use it inside `async with`")
        try:
            with translated(_PLACE), in_transaction(self._connection, begin):
                return function(self._connection, *args, **kwargs)
        finally:
            # after the call, so that a task cancelled here by asyncio itself has made it, as with a store on
            # disk
            await anyio.lowlevel.cancel_shielded_checkpoint()


class MemoryStateStore(StateStore):
    """A `StateStore` whose data lives as long as the object, over several `async with`.

    Only the newest `MAX_JOURNAL` answers of the journal are kept, and the newest `MAX_TRACES` traces.
    """

    def __init__(self) -> None:
        self._database: MemoryDatabase = MemoryDatabase()

    async def put_journal(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        """Store paid answers, and drop the oldest beyond `MAX_JOURNAL`."""
        await self._database.write(_put_bounded, entries, forget)


def _put_bounded(connection: Connection, entries: Sequence[JournalEntry], forget: Collection[str]) -> None:
    # an answer stored again counts as new
    connection.executemany("DELETE FROM journal WHERE key = ?", [(entry.key,) for entry in entries])
    journal.put(connection, entries, forget)
    connection.execute(
        "DELETE FROM journal WHERE seq <= (SELECT seq FROM journal ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (MAX_JOURNAL,),
    )
    if any(entry.prompt for entry in entries):
        connection.execute(
            "UPDATE journal SET prompt = '', reply = '' WHERE prompt <> '' AND seq <="
            " (SELECT seq FROM journal ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (MAX_TRACES,),
        )
