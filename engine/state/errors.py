"""The one place where SQLite's and the system's errors become the engine's.

Every message names the path and what can be done about it.
"""

from __future__ import annotations

import difflib
import errno
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.contract.types import JsonValue
from engine.errors import (
    LeaseLostError,
    RunNotFoundError,
    StateCorruptError,
    StateError,
    StateFullError,
    StateReadOnlyError,
)

__all__ = ["decoded", "encoded", "is_busy", "lease_lost", "no_such_run", "translated"]

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each value

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# the shared-memory file beside the database could not grow: SQLite reports that as an I/O error
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_READ_ONLY: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_CORRUPTFS})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise in the block into a `StateError` about `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, path) from error
    except OSError as error:
        raise _from_system(error, path) from error
    except UnicodeDecodeError as error:
        # SQLite names a damaged table or index by bytes that are no text, or has such bytes in a column
        raise StateCorruptError(f"cannot read {path}: it holds text that is no UTF-8. {_RESTORE}") from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise StateError(f"{path}: cannot store a value: {error}") from error


def is_busy(error: sqlite3.Error) -> bool:
    """True when another connection holds a lock, so that trying again may help."""
    return bool(_codes(error) & _BUSY)


def encoded(value: JsonValue, what: str) -> str:
    """`value` as JSON text, in ASCII so that even lone surrogates pass. `what` names it in the error."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StateError(f"cannot store {what} as JSON: {error}") from error


def decoded(text: str, what: str) -> JsonValue:
    """The value of JSON text that `encoded` wrote."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise StateCorruptError(f"{what} in the state store is damaged: {error}. {_RESTORE}") from error


def no_such_run(run_id: str, known: Sequence[str], place: str) -> RunNotFoundError:
    """The error for an unknown run. `known`: ids to choose the nearest from, newest last."""
    near = [known_id for known_id in known if run_id and known_id.startswith(run_id)][-3:]
    near = near or difflib.get_close_matches(run_id, known, n=3)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = f"the latest are {', '.join(reversed(known[-3:]))}"
    else:
        hint = "it has no runs"
    return RunNotFoundError(f"no run {run_id!r} in {place}: {hint}")


def lease_lost(run_id: str, holder: str, current: int, ours: int) -> LeaseLostError:
    """The error for a write of an epoch when a higher one is `current`; `holder` "": it was given back."""
    return LeaseLostError(
        f"{holder or 'another process'} took over run {run_id!r} (epoch {current}, ours is {ours}): the "
        "store rejects further writes of this process"
    )


_RESTORE: Final = (
    "Restore the state directory from a backup, or move it away to start over; the engine does not start "
    "over by itself"
)


def _codes(error: sqlite3.Error) -> frozenset[int]:
    """The extended result code and the primary one, which is its lowest byte (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)  # absent when Python itself raised the error
    return frozenset() if code is None else frozenset({code, code & 0xFF})


def _from_sqlite(error: sqlite3.Error, path: Path) -> StateError:
    codes = _codes(error)
    if codes & _FULL:
        return _full(path, error)
    if codes & _READ_ONLY:
        return _read_only(path, error)
    if codes & _CORRUPT:
        return StateCorruptError(f"cannot read {path}: {error}. {_RESTORE}")
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
