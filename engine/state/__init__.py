"""What the engine keeps between processes: runs, splits, positions with tallies, bookmarks, dead letters,
paid answers.

`open_store` gives the SQLite store of a state directory, or the one in a PostgreSQL database;
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
    JournalFilter,
    Lease,
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
    "JournalFilter",
    "Lease",
    "Progress",
    "RunRecord",
    "RunStatus",
    "SplitRecord",
    "StateStore",
    "open_store",
]


def open_store(where: str | os.PathLike[str], *, create: bool = True) -> StateStore:
    """The store of a state directory or a database, to be used with `async with`; untouched before that.

    Args:
        where: a directory, created with mode 0700 when it is missing; or the address of a PostgreSQL database
            (`postgresql://user@host/database`), whose tables are created when they are missing.
        create: False makes a missing store an error, for commands that only look.

    Raises:
        ConfigError: the address cannot be understood.
        RegistryError: what PostgreSQL needs is not installed.
    """
    # imported when needed: a verb without state is faster
    if isinstance(where, str) and is_address(where):
        try:
            from engine.state.postgres import PostgresStateStore
        except ImportError as error:  # or psycopg is there without libpq
            raise RegistryError(
                f"state in PostgreSQL needs psycopg: pip install 'odw-engine[postgres]' ({error})"
            ) from error
        return PostgresStateStore(where, create=create)
    from engine.state.sqlite import SqliteStateStore

    return SqliteStateStore(Path(where), create=create)
