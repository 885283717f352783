"""Translate errors of SQLite and the system to the engine's.

Every message names the path and the remedy.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.errors import StateCorruptError, StateError, StateFullError, StateReadOnlyError
from engine.state.encoding import RESTORE

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# the shared-memory file of the database could not grow, which SQLite reports as an I/O error
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_READ_ONLY: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_CORRUPTFS})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and the system in the block to a `StateError` about `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, path) from error
    except OSError as error:
        raise _from_system(error, path) from error
    except UnicodeDecodeError as error:
        # the name of a damaged table or index, or a column, has bytes that are not text
        raise StateCorruptError(
            f"cannot read {path}: it contains text that is not UTF-8. {RESTORE}"
        ) from error
    except IndexError as error:
        if "No item with that key" not in str(error):
            raise
        # of a row: the name of a column is damaged
        raise StateCorruptError(f"cannot read {path}: a column is missing. {RESTORE}") from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise StateError(f"{path}: cannot store a value: {error}") from error


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock, so that a retry may help."""
    return bool(_codes(error) & _BUSY)


def _codes(error: sqlite3.Error) -> frozenset[int]:
    """Return the extended result code and the primary one, its lowest byte (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)  # absent when Python itself raised the error
    return frozenset() if code is None else frozenset({code, code & 0xFF})


def _from_sqlite(error: sqlite3.Error, path: Path) -> StateError:
    codes = _codes(error)
    if codes & _FULL:
        return _full(path, error)
    if codes & _READ_ONLY:
        return _read_only(path, error)
    if codes & _CORRUPT:
        return StateCorruptError(f"cannot read {path}: {error}. {RESTORE}")
    if codes & _BUSY:
        return StateError(
            f"{path} is locked by another process that does not release it; stop that process and try again"
        )
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StateError(f"cannot use {path}: {error} ({name})")


def _from_system(error: OSError, path: Path) -> StateError:
    if error.errno in _NO_SPACE:
        return _full(path, error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return StateReadOnlyError(
            f"cannot create {path}: {path.parent} is a file or inside one. Name a directory with --state-dir"
        )
    return _read_only(path, error)


def _full(path: Path, error: Exception) -> StateFullError:
    return StateFullError(
        f"no space left for {path}: {error}. This commit was not written; all earlier ones are kept. Free "
        "some space, then resume the run"
    )


def _read_only(path: Path, error: Exception) -> StateReadOnlyError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StateReadOnlyError(
        f"cannot open {path}: {reason}. Give this user read and write access to the directory and the "
        "file, or choose another directory with --state-dir"
    )
