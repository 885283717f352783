"""End a run because of one node, while the others finish what is in flight.

A budget that is used up, too many dead letters, a refused key: none of them is a reason to throw away a
model's answer that is on its way, or to write a batch without noting that it is written. Only a bug ends
everything at once, since what it has touched is unknown.
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

__all__ = ["Drain", "Stop", "leaves_others_intact"]

DRAIN_POLL = 0.1


class Stop:
    """The error that ends a run, shared by all its segments.

    Args:
        on_stop: called once, with the first error that is taken.

    Attributes:
        error: that error; None as long as the run goes well.
    """

    def __init__(self, on_stop: Callable[[Exception], None] = lambda error: None) -> None:
        self.error: Exception | None = None
        self._on_stop = on_stop

    def take(self, error: Exception) -> bool:
        """Return whether other nodes may finish after this error; if so, the first one ends the run."""
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
    """Return whether an error says nothing against what other nodes are doing."""
    if isinstance(error, DeadLetterBudgetError | OutageError | PipelineTimeoutError):
        return True
    cause = error.__cause__
    return (
        isinstance(error, NodeFailedError)
        and isinstance(cause, ComponentError)
        and not isinstance(cause, BatchError)
    )


class Drain:
    """Whether a run is to deliver what it has read and end, and until when it may take to do so.

    Attributes:
        asked: true once it is.
    """

    def __init__(self) -> None:
        self.asked = False
        self._event = anyio.Event()
        self._until = inf

    def ask(self, limit: float) -> None:
        """Ask for it, with `limit` seconds to take; the shortest of several limits counts."""
        # real time, whatever the run's clock says: whoever asked may soon kill the process
        self._until = min(self._until, anyio.current_time() + limit)
        self.asked = True
        self._event.set()

    async def over(self, worth_waiting: Callable[[], bool]) -> None:
        """Wait until a drain that was asked for has used up its time, or is not worth waiting for."""
        await self._event.wait()
        while anyio.current_time() < self._until and worth_waiting():  # noqa: ASYNC110
            await anyio.sleep(DRAIN_POLL)  # many workers share this state, and few ask for it: no event
