"""State stores of a process that can die at any operation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.state.database import SqliteConnection, SqliteDatabase
from engine.state.memory import MemoryDatabase, MemoryStateStore
from engine.state.sqlite import SqliteStateStore

__all__ = ["Fuse", "Killed", "MortalMemoryStore", "MortalSqliteStore", "MortalStore"]


class Killed(KeyboardInterrupt):
    """The process has died; nothing after this runs, not even clean-up."""


class Fuse:
    """Ends the process when it has burnt down; `lit` says after how many moments.

    `meanwhile` is called once, at the first moment: other tasks go on while one waits for the store.
    """

    def __init__(self) -> None:
        self.lit: int | None = None
        self.meanwhile: Callable[[], None] | None = None

    def burn(self) -> None:
        """One moment has passed."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.lit is not None:
            self.lit -= 1
            if self.lit < 0:
                raise Killed


class MortalMemoryStore(MemoryStateStore):
    """Moments are before each operation, and after each that writes progress, splits or letters."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = Fuse()
        self._database = _MortalMemoryDatabase(self.fuse)

    async def add_splits(self, *args: Any, **kwargs: Any) -> None:
        await super().add_splits(*args, **kwargs)
        self.fuse.burn()

    async def commit(self, *args: Any, **kwargs: Any) -> None:
        await super().commit(*args, **kwargs)
        self.fuse.burn()

    async def put_dead_letters(self, *args: Any, **kwargs: Any) -> None:
        await super().put_dead_letters(*args, **kwargs)
        self.fuse.burn()


class _MortalMemoryDatabase(MemoryDatabase):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    async def _make(self, begin: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._fuse.burn()
        return await super()._make(begin, function, *args, **kwargs)


class MortalSqliteStore(SqliteStateStore):
    """Moments are before each transaction that writes, at its end before the commit, and after it."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.fuse = Fuse()
        self._database = _MortalDatabase(self.path, self.fuse)


class _MortalDatabase(SqliteDatabase):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    async def open(self) -> None:
        await super().open()
        assert self._connection is not None
        # what dies here is a process, not the machine, and waiting for the disk takes most of the time
        self._connection.execute("PRAGMA synchronous = OFF")

    async def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def up_to_the_commit(connection: SqliteConnection) -> Any:
            result = function(connection, *args, **kwargs)
            self._fuse.burn()
            return result

        self._fuse.burn()
        result = await super().write(up_to_the_commit)
        self._fuse.burn()
        return result


MortalStore = MortalMemoryStore | MortalSqliteStore
