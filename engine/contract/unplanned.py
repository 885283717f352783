"""Unexpected exceptions of components, as failures of a record or of the node."""

from __future__ import annotations

import asyncio
import math
import sysconfig
from pathlib import Path
from traceback import extract_tb
from typing import Final

import anyio

from engine.errors import FatalError, RecordError

__all__ = ["described", "escaped", "has_asyncio_loop", "unplanned_error"]

_NOT_THE_USERS: Final = tuple(
    {
        str(Path(__file__).resolve().parent.parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        "<frozen",
    }
)


def described(error: BaseException) -> str:
    """Return the type and the line of an unexpected error.

    The line is the last one in the user's own code, if any, since the code that it calls is rarely to blame.
    The message is left out, because a `KeyError` or `ValueError` often quotes the record; errors of the
    operating system and of imports only name files.
    """
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    last = (own or frames)[-1:]
    where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in last)
    text = f": {error}" if isinstance(error, OSError | ImportError) and str(error) else ""
    return f"{type(error).__name__}{text}{where}"


def escaped(error: BaseException) -> Exception:
    """Convert what a component raised to an `Exception`; call this in the `except` block.

    `sys.exit` would end the process, and an unrequested cancellation (of a future that the component awaits)
    the task, both without an error: here they fail the node.

    Raises:
        BaseException: the given one, if it must end the task: a requested cancellation, or Ctrl-C.
    """
    if isinstance(error, Exception):
        return error
    is_cancellation = isinstance(error, anyio.get_cancelled_exc_class())
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or (is_cancellation and _is_requested(error)):
        raise error
    remedy = ""
    if is_cancellation:
        remedy = ": it was cancelled, but not by the engine"
    elif isinstance(error, SystemExit):
        remedy = ": a component cannot end the process; raise engine.FatalError to stop the run"
    failure = FatalError(f"{described(error)}{remedy}")
    failure.__cause__ = error
    return failure


def _is_requested(cancellation: BaseException) -> bool:
    """Return whether a cancel scope or the owner of the task cancels it."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if not isinstance(cancellation, asyncio.CancelledError) or (task := asyncio.current_task()) is None:
        return False
    # `Task.cancel`, as of an activity; within a task group only a component can have called it
    return task.cancelling() > 0 and anyio.get_current_task().parent_id is None


def unplanned_error(error: BaseException) -> RecordError:
    """Return the failure of a record that caused an unexpected error."""
    return RecordError(described(error), kind=type(error).__name__, unplanned=True)


def has_asyncio_loop() -> bool:
    """Return whether this thread runs an event loop of asyncio, in a task or in a callback."""
    return asyncio._get_running_loop() is not None
