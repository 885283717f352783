"""What has come of tasks in a workflow, and waiting that cancellation does not cut short.

Loaded by Temporal's sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, CancelledError, ChildWorkflowError

__all__ = ["has_failed", "in_spite_of_cancellation", "innermost", "is_cancelled", "is_over"]


async def in_spite_of_cancellation(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon, although the workflow is cancelled, perhaps meanwhile."""
    while not condition():
        with suppress(asyncio.CancelledError):
            await workflow.wait_condition(condition)


def is_over(task: asyncio.Task[Any]) -> bool:
    """True when it has ended; what it raised is looked at, so that nobody reports it as forgotten."""
    if not task.done():
        return False
    if not task.cancelled():
        task.exception()
    return True


def has_failed(task: asyncio.Task[Any]) -> bool:
    """True when it has ended with an exception, or was cancelled."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def innermost(error: BaseException) -> BaseException:
    """What a failed activity or child workflow failed with."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    return error


def is_cancelled(error: BaseException) -> bool:
    """True when it says that what failed was cancelled."""
    return isinstance(innermost(error), CancelledError)
