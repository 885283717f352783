"""End a run because of one node, while the others finish what is in flight.

An exhausted budget, too many dead letters or a rejected key are no reason to discard a model's pending
answer, or to write a batch without recording it. Only a bug ends everything at once, since its effects are
unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import anyio

from engine.errors import (
    BatchError,
    ComponentError,
    DeadLetterBudgetError,
    NodeFailedError,
    OutageError,
    PipelineTimeoutError,
)
from engine.flow.errors import cause_of

DRAIN_POLL = 0.1


class Stop:
    """The error that ends a run, shared by all its segments.

    Args:
        on_stop: called once, with the first error taken.

    Attributes:
        error: that error; None until then.
    """

    def __init__(self, on_stop: Callable[[Exception], None] = lambda error: None) -> None:
        self.error: Exception | None = None
        self._on_stop = on_stop

    def take(self, error: Exception) -> bool:
        """Take an error and return whether other nodes may finish; the first such error ends the run."""
        if isinstance(error, ExceptionGroup):
            cause = cause_of(error)
            error = cause if isinstance(cause, Exception) else error
        if not leaves_others_intact(error):
            return False
        if self.error is None:
            self.error = error
            self._on_stop(error)
        return True


def leaves_others_intact(error: Exception) -> bool:
    """Return whether an error does not affect other nodes."""
    if isinstance(error, DeadLetterBudgetError | OutageError | PipelineTimeoutError):
        return True
    cause = error.__cause__
    return (
        isinstance(error, NodeFailedError)
        and isinstance(cause, ComponentError)
        and not isinstance(cause, BatchError)
    )


class Drain:
    """Whether a run has to deliver what it has read and end, and its deadline.

    Attributes:
        asked: true once a drain was requested.
    """

    def __init__(self) -> None:
        self.asked = False
        self._event = anyio.Event()
        self._until = inf

    def ask(self, limit: float) -> None:
        """Request a drain within `limit` seconds; the shortest of several limits counts."""
        # real time, not the run's clock: the requester may soon kill the process
        self._until = min(self._until, anyio.current_time() + limit)
        self.asked = True
        self._event.set()

    async def over(self, worth_waiting: Callable[[], bool]) -> None:
        """Wait until a requested drain has used up its time, or waiting is pointless."""
        await self._event.wait()
        while anyio.current_time() < self._until and worth_waiting():  # noqa: ASYNC110
            await anyio.sleep(DRAIN_POLL)  # polled: many workers change this state, and it is rarely awaited
