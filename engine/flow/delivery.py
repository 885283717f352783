"""Process one batch at one node, and handle all failures.

*Transient* failures are retried with growing, jittered waits. *Permanent* failures of a record go to the dead
letters while the rest of the batch continues. An overloaded service is neither: waiting for it uses up no
attempt. A `Redelivery` handles the rest of the first attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engine.contract.batch import Batch
from engine.contract.clock import Clock
from engine.errors import BatchError, RecordError, StoppingError, TransientError
from engine.flow.redelivery import DeadLetterCall, Redelivery, Remainder
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.stats import NodeStats

Failure: TypeAlias = TransientError | RecordError | BatchError


@dataclass(slots=True)
class Outcome:
    """The result of one attempt: the batch to pass on (or None), and failures by input index.

    The indices are ascending and unique.
    """

    derived: Batch | None
    failures: Sequence[tuple[int, RecordError | TransientError]] = ()
    confirmed: bool = True


Call = Callable[[Batch], Awaitable[Outcome]]
Emit = Callable[[Batch, Outcome], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Runs `call` on batches until each record has reached `emit` or `dead_letter`.

    Args:
        call: makes one attempt; raises `TransientError`, `RecordError` or `BatchError`, or returns an
            `Outcome`.
        emit: receives successes: (the input records of this attempt, its outcome).
        dead_letter: receives records for the dead letters: (batch, [(index, error)], attempts).
        is_answering: returns whether the service handles other requests now (`Component.is_answering`).
        derives: `call` derives new records. Records that a `BatchError` does not name were delivered by a
            sink, but a transform has to be called for them again.
    """

    call: Call
    emit: Emit
    dead_letter: DeadLetterCall
    policy: RetryPolicy
    health: NodeHealth
    stats: NodeStats
    clock: Clock
    is_answering: Callable[[], Awaitable[bool]]
    derives: bool = False

    async def deliver(self, batch: Batch) -> None:
        """Process every record of `batch`.

        Raises:
            OutageError: nothing succeeded at this node for the policy's limit.
            Exception: any other error of `call`, `emit` or `dead_letter`.
        """
        redelivery = self._redelivery()
        await redelivery.finish(await self._try(batch, 1))

    async def accept(self, batch: Batch, outcome: Outcome) -> None:
        """Continue a batch after the outcome of a first attempt made elsewhere."""
        redelivery = self._redelivery()
        await redelivery.finish(await self._sort_out(batch, outcome, 1))

    async def reject(self, batch: Batch, failure: Failure) -> None:
        """Continue a batch after the failure of a first attempt made elsewhere."""
        redelivery = self._redelivery()
        await redelivery.finish(await self._failed(batch, failure, 1))

    def _redelivery(self) -> Redelivery:
        return Redelivery(
            tries=self._try,
            dead_letter=self.dead_letter,
            policy=self.policy,
            health=self.health,
            stats=self.stats,
            clock=self.clock,
            is_answering=self.is_answering,
        )

    async def _try(self, batch: Batch, attempt: int) -> Remainder | None:
        try:
            outcome = await self.call(batch)
        except (TransientError, RecordError, BatchError) as failure:
            caught: Failure = failure
        else:
            return await self._sort_out(batch, outcome, attempt)
        return await self._failed(batch, caught, attempt)

    async def _failed(self, batch: Batch, failure: Failure, attempt: int) -> Remainder | None:
        if isinstance(failure, StoppingError):
            self.stats.undone += len(batch)
            return None
        if isinstance(failure, TransientError):
            self.health.failed(self.clock.monotonic())
            return batch, failure
        if isinstance(failure, BatchError):
            failures = sorted(failure.failures.items())
            good = [index for index in range(len(batch)) if index not in failure.failures]
            if good:
                await self._passed(batch.take(good), confirmed=failure.confirmed)
            return await self._sort_out(batch, Outcome(None, failures), attempt)
        if len(batch) == 1:
            return await self._sort_out(batch, Outcome(None, [(0, failure)]), attempt)
        # the component blamed a record without naming it: find it
        for index in range(len(batch)):
            await self.deliver(batch.slice(index, index + 1))
        return None

    async def _passed(self, part: Batch, *, confirmed: bool) -> None:
        """Return the records that a partial failure does not name."""
        if self.derives:
            await self.deliver(part)
            return
        self.health.succeeded()
        await self.emit(part, Outcome(part, confirmed=confirmed))

    async def _sort_out(self, batch: Batch, outcome: Outcome, attempt: int) -> Remainder | None:
        """Pass on successes and final failures; return the records to retry."""
        final = [(index, one) for index, one in outcome.failures if isinstance(one, RecordError)]
        waiting = [(index, one) for index, one in outcome.failures if isinstance(one, TransientError)]
        again = [(index, one) for index, one in waiting if not isinstance(one, StoppingError)]
        self.stats.undone += len(waiting) - len(again)
        if outcome.derived is not None:
            if len(outcome.failures) < len(batch):
                self.health.succeeded()
            await self.emit(batch, outcome)
        if final:
            # an error for a record is an answer too: the service is available
            self.health.succeeded()
            await self.dead_letter(batch, final, attempt)
        if not again:
            return None
        self.health.failed(self.clock.monotonic())
        return batch.take([index for index, _ in again]), _together([one for _, one in again])


def _together(errors: Sequence[TransientError]) -> TransientError:
    """Combine several failures: the service is busy only if all say so, and the longest wait counts."""
    telling = [one for one in errors if not one.throttled] or errors
    error = max(telling, key=lambda one: one.retry_after or 0.0)
    longest = max((one.retry_after or 0.0 for one in errors), default=0.0)
    if longest <= (error.retry_after or 0.0):
        return error
    waiting = TransientError(str(error))
    waiting.__cause__ = error
    waiting.retry_after = longest  # other failures are not excused by this
    return waiting
