"""Translate psycopg's errors to the engine's, or to a reason for a retry.

Every message names server, database and remedy. The server's messages are quoted without details, which may
contain values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from engine.errors import StateCorruptError, StateError, StateFullError, StateReadOnlyError


class DisconnectedError(Exception):
    """The server cannot be reached, or the connection broke: uncommitted work can be retried."""


class ContendedError(Exception):
    """The server has aborted a transaction in favour of another one: a retry may help."""


# errcodes of PostgreSQL, appendix A: the two digits of a class, or the whole code
_DISCONNECTED: Final = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "53300")
_CONTENDED: Final = ("40001", "40P01")
_FULL: Final = ("53100", "53200")
_READ_ONLY: Final = ("25006", "42501")
_CORRUPT: Final = ("XX001", "XX002", "42703")
_GONE: Final = ("42P01",)
_LOCKED: Final = ("55P03",)
_VALUE: Final = ("22",)

_QUESTION: Final = re.compile(r"\s*Is the server running [^?]*\?")  # our message is more specific


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Translate psycopg's errors in the block to a `StateError` about `place`, or one of the errors above."""
    try:
        yield
    except psycopg.Error as error:
        raise _from_postgres(error, place) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise StateError(f"{place}: cannot store a value: {error}") from error


def _from_postgres(error: psycopg.Error, place: str) -> Exception:
    code = error.sqlstate or ""
    text = _text(error)
    if code.startswith(_CONTENDED):
        return ContendedError(text)
    if code.startswith(_DISCONNECTED) or (not code and isinstance(error, psycopg.OperationalError)):
        return DisconnectedError(text)
    if code.startswith(_FULL):
        return StateFullError(
            f"no space left for {place}: {text}. This commit was not written; all earlier ones are kept. "
            "Free some space on the server, then resume the run"
        )
    if code.startswith(_READ_ONLY):
        return StateReadOnlyError(
            f"cannot write to {place}: {text}. Use the primary server, and a user who owns the schema "
            "odw_engine or may create it (GRANT CREATE ON DATABASE)"
        )
    if code.startswith(_GONE):
        return StateCorruptError(
            f"cannot use {place}: {text}. It was removed or replaced while in use: restore the schema "
            "odw_engine from a backup, or start over"
        )
    if code.startswith(_CORRUPT):
        return StateCorruptError(f"cannot read {place}: {text}. Restore the database from a backup")
    if code.startswith(_LOCKED):
        return StateError(
            f"{place} is locked by another process that does not release it; stop that process and try again"
        )
    if code.startswith(_VALUE) or isinstance(error, psycopg.DataError):
        return StateError(f"{place}: cannot store a value: {text}")
    return StateError(f"cannot use {place}: {text} ({code or type(error).__name__})")


def _text(error: psycopg.Error) -> str:
    """Return the error in one line."""
    text = error.diag.message_primary or _QUESTION.sub("", str(error)).removeprefix("connection failed: ")
    return " ".join(text.split()).rstrip(".")
