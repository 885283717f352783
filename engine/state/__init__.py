"""The engine's persistent state: runs, splits, positions with tallies, bookmarks, dead letters, paid answers.

`open_store` returns the SQLite store of a state directory, or a PostgreSQL store;
`engine.state.memory.MemoryStateStore` needs neither.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import RegistryError
from engine.state.address import is_address
from engine.state.records import (
    Acked,
    BookmarkFilter,
    BookmarkRecord,
    BookmarkScope,
    DeadLetterFilter,
    Follower,
    JournalFilter,
    Lease,
    Notification,
    Progress,
    RunRecord,
    RunStatus,
    SplitRecord,
)
from engine.state.store import StateStore

__all__ = [
    "Acked",
    "BookmarkFilter",
    "BookmarkRecord",
    "BookmarkScope",
    "DeadLetterFilter",
    "Follower",
    "JournalFilter",
    "Lease",
    "Notification",
    "Progress",
    "RunRecord",
    "RunStatus",
    "SplitRecord",
    "StateStore",
    "open_store",
]


def open_store(where: str | os.PathLike[str], *, create: bool = True) -> StateStore:
    """Return the store of a state directory or a database; `async with` opens it.

    Args:
        where: a directory, created with mode 0700 if missing; or the address of a PostgreSQL database
            (`postgresql://user@host/database`), whose tables are created if missing.
        create: False makes a missing store an error, for commands that only read.

    Raises:
        ConfigError: the address is not valid.
        RegistryError: a package for PostgreSQL is not installed.
    """
    # imported on demand: verbs without state start faster
    if isinstance(where, str) and is_address(where):
        try:
            from engine.state.postgres import PostgresStateStore
        except ImportError as error:  # or psycopg is installed without libpq
            raise RegistryError(
                f"state in PostgreSQL needs psycopg: pip install 'odw-engine[postgres]' ({error})"
            ) from error
        return PostgresStateStore(where, create=create)
    from engine.state.sqlite import SqliteStateStore

    return SqliteStateStore(Path(where), create=create)
