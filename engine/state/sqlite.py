"""The state store of one machine: a SQLite file in the state directory."""

from __future__ import annotations

from pathlib import Path

from engine.state.database import SqliteDatabase
from engine.state.store import StateStore

FILE_NAME = "state.sqlite3"


class SqliteStateStore(StateStore):
    """A `StateStore` in a SQLite file, which several processes may share.

    Writes are on disk, and survive a power failure, when a method returns. A method whose task is cancelled
    has done either all of its work or none.

    Args:
        state_dir: the directory of `state.sqlite3`; created with mode 0700 if it is missing.
        create: False rejects a directory without a store, for commands that only read.

    Raises:
        StateReadOnlyError, StateFullError, StateCorruptError, StateVersionError: on entering, or later from
            any method; the message has the path and the remedy.
        StateError: another process keeps the file locked for over 10 seconds; a value is not JSON-safe.
    """

    def __init__(self, state_dir: Path, *, create: bool = True) -> None:
        self.path = state_dir / FILE_NAME
        super().__init__(SqliteDatabase(self.path, create=create))
