"""What the engine keeps between processes: runs, splits, positions with tallies, bookmarks, dead letters,
paid answers.

`open_store` gives the SQLite store of a state directory; `engine.state.memory.MemoryStateStore` needs none.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.state.protocol import (
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
    StateStore,
)

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


def open_store(state_dir: str | os.PathLike[str], *, create: bool = True) -> StateStore:
    """The store of a state directory, to be used with `async with`; nothing is touched before that.

    Args:
        state_dir: created with mode 0700 when it is missing.
        create: False makes a missing store an error, for commands that only look.
    """
    from engine.state.sqlite import SqliteStateStore  # imported when needed: a verb without state is faster

    return SqliteStateStore(Path(state_dir), create=create)
