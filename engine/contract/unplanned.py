"""Exceptions that no component meant to raise, as failures of one record."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from traceback import extract_tb
from typing import Final

from engine.errors import RecordError

__all__ = ["described", "unplanned_error"]

_NOT_THE_USERS: Final = tuple(
    {
        str(Path(__file__).resolve().parent.parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        "<frozen",
    }
)


def described(error: BaseException) -> str:
    """Return the type and the line of an unexpected error.

    The line is the last one of the user's own code, if there is any: what it calls is seldom to blame. The
    text is left out, because a `KeyError` or `ValueError` tends to quote the record; errors of the operating
    system and of imports only name files.
    """
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    last = (own or frames)[-1:]
    where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in last)
    text = f": {error}" if isinstance(error, OSError | ImportError) else ""
    return f"{type(error).__name__}{text}{where}"


def unplanned_error(error: BaseException) -> RecordError:
    """Return the failure of the record that an unexpected error came from."""
    return RecordError(described(error), kind=type(error).__name__, unplanned=True)
