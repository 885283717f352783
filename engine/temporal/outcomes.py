"""Outcomes of tasks in a workflow, and waits that survive cancellation.

Loaded by Temporal's sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, CancelledError, ChildWorkflowError


async def in_spite_of_cancellation(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon, even if the workflow is cancelled."""
    while not condition():
        with suppress(asyncio.CancelledError):
            await workflow.wait_condition(condition)


def is_over(task: asyncio.Task[Any]) -> bool:
    """Return whether a task has ended, and retrieve its exception to avoid a warning."""
    if not task.done():
        return False
    if not task.cancelled():
        task.exception()
    return True


def has_failed(task: asyncio.Task[Any]) -> bool:
    """Return whether a task has failed or was cancelled."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def innermost(error: BaseException) -> BaseException:
    """Return the cause of a failed activity or child workflow."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    return error


def is_cancelled(error: BaseException) -> bool:
    """Return whether a failure is a cancellation."""
    return isinstance(innermost(error), CancelledError)
