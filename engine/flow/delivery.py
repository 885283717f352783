"""One node's work on one batch, with everything that can go wrong with it.

*Transient* failures are tried again with growing, jittered waits. *Permanent* ones of a record go to the
dead letters while the rest of the batch goes on. When the tries are used up, the question is whether the
fault is in the records or in the other side: if anything else has got through meanwhile, the batch is
halved down to the records that keep failing and those become dead letters; if nothing has, it is an
outage, which is waited out up to the policy's limit and never fills the dead letters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from engine.batch import Batch, join
from engine.clock import Clock
from engine.errors import BatchError, OutageError, RecordError, TransientError
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.stats import NodeStats, Waiting

__all__ = ["Bury", "Delivery", "Outcome"]

GIVE_UP_ISOLATING = 8  # failures in a row, nothing succeeding: not a bad record but an outage


@dataclass(slots=True)
class Outcome:
    """What came of one try: the batch to hand on (None: nothing), and what failed, by index in the input."""

    derived: Batch | None
    failures: Sequence[tuple[int, RecordError | TransientError]] = ()
    confirmed: bool = True


Call = Callable[[Batch], Awaitable[Outcome]]
Emit = Callable[[Batch, Outcome], Awaitable[None]]
Bury = Callable[[Batch, Sequence[tuple[int, RecordError]], int], Awaitable[None]]


class Delivery:
    """Runs `call` on batches until each record has been handed to `emit` or to `bury`.

    Args:
        call: one try; raises `TransientError`, `RecordError` or `BatchError`, or returns an `Outcome`.
        emit: takes what succeeded: (the input records of this try, its outcome).
        bury: takes records for the dead letters: (batch, [(index, error)], attempts).
    """

    def __init__(
        self,
        *,
        call: Call,
        emit: Emit,
        bury: Bury,
        policy: RetryPolicy,
        health: NodeHealth,
        stats: NodeStats,
        clock: Clock,
    ) -> None:
        self._call = call
        self._emit = emit
        self._bury = bury
        self._policy = policy
        self._health = health
        self._stats = stats
        self._clock = clock

    async def deliver(self, batch: Batch) -> None:
        """See every record of `batch` through.

        Raises:
            OutageError: nothing succeeded at this node for the policy's limit.
            Exception: whatever else the component raised.
        """
        seen = self._health.successes
        rest, error = await self._try(batch, 1)
        if rest is not None:
            await self._persist(rest, error, seen)

    async def accept(self, batch: Batch, outcome: Outcome) -> None:
        """Take the outcome of a first try made elsewhere, and see the rest of the batch through."""
        seen = self._health.successes
        rest, error = await self._sort_out(batch, outcome, 1)
        if rest is not None:
            await self._persist(rest, error, seen)

    async def _persist(self, batch: Batch, error: TransientError, seen: int) -> None:
        """Try again what failed once, until it is through, dead, or an outage."""
        attempt, todo = 1, batch
        while True:
            exhausted = attempt >= self._policy.attempts
            if exhausted and self._health.successes > seen:
                # others got through since the last try, so the fault may be in these records
                left = await self._isolate(todo, error, attempt)
                if left is None:
                    return
                todo = left
            if exhausted and self._policy.bury_on_stall:
                verdict = RecordError(str(error), kind="Stalled")
                await self._bury(todo, [(index, verdict) for index in range(len(todo))], attempt)
                return
            if exhausted:
                self._check_outage(error)
            seen = self._health.successes
            await self._wait(attempt, error, outage=exhausted)
            attempt += 1
            rest, error = await self._try(todo, attempt)
            if rest is None:
                return
            todo = rest

    async def _try(self, batch: Batch, attempt: int) -> tuple[Batch | None, TransientError]:
        """One try; returns what should be tried again, and why."""
        try:
            outcome = await self._call(batch)
        except TransientError as failure:
            self._health.failed(self._clock.monotonic())
            return batch, failure
        except RecordError as failure:
            if len(batch) > 1:
                await self._one_by_one(batch)
                return None, failure_free()
            outcome = Outcome(None, [(0, failure)])
        except BatchError as failure:
            good = [index for index in range(len(batch)) if index not in failure.failures]
            if good:
                part = batch.take(good)
                self._health.succeeded()
                await self._emit(part, Outcome(part))
            outcome = Outcome(None, sorted(failure.failures.items()))
        return await self._sort_out(batch, outcome, attempt)

    async def _sort_out(
        self, batch: Batch, outcome: Outcome, attempt: int
    ) -> tuple[Batch | None, TransientError]:
        """Hand on what succeeded and bury what is final; returns what should be tried again, and why."""
        final = [(index, one) for index, one in outcome.failures if isinstance(one, RecordError)]
        again = [(index, one) for index, one in outcome.failures if isinstance(one, TransientError)]
        if outcome.derived is not None:
            if len(outcome.derived) or not again:
                self._health.succeeded()
            await self._emit(batch, outcome)
        if final:
            # a verdict on a record is an answer too: the other side is there
            self._health.succeeded()
            await self._bury(batch, final, attempt)
        if not again:
            return None, failure_free()
        self._health.failed(self._clock.monotonic())
        return batch.take([index for index, _ in again]), again[0][1]

    async def _one_by_one(self, batch: Batch) -> None:
        """The component blamed a record without saying which: find it."""
        for index in range(len(batch)):
            await self.deliver(batch.slice(index, index + 1))

    async def _isolate(self, batch: Batch, error: TransientError, attempt: int) -> Batch | None:
        """Halve a failing batch down to the records that fail alone, and bury those.

        Returns None when every record has its fate, or what is left when it turns out to be an outage.
        """
        suspects: list[tuple[Batch, TransientError]] = []
        queue: deque[Batch] = deque()
        if len(batch) > 1:
            queue.extend(_halves(batch))
        else:
            suspects.append((batch, error))
        seen, in_a_row = self._health.successes - (not queue), 0
        while queue and in_a_row < GIVE_UP_ISOLATING:
            before = self._health.successes
            rest, error = await self._try(queue.popleft(), attempt + 1)
            in_a_row = in_a_row + 1 if self._health.successes == before else 0
            if rest is None:
                continue
            if len(rest) > 1:
                queue.extend(_halves(rest))
            else:
                suspects.append((rest, error))
        if queue or self._health.successes == seen:
            left = [part for part, _ in suspects] + list(queue)
            return join(left) if left else None
        for part, reason in suspects:
            await self._bury(part, [(0, RecordError(str(reason), kind="RetriesExhausted"))], attempt + 1)
        return None

    def _check_outage(self, error: TransientError) -> None:
        lasted = self._health.failed(self._clock.monotonic())
        if lasted >= self._policy.outage_limit:
            raise OutageError(
                f"nothing got through at {self._stats.name!r} for {lasted:.0f} s; last answer: {error}"
            ) from error

    async def _wait(self, attempt: int, error: TransientError, *, outage: bool) -> None:
        stats = self._stats
        stats.retries += 1
        stats.waiting = Waiting.OUTAGE if outage else Waiting.RETRY
        stats.note = str(error)[:200]
        try:
            await self._clock.sleep(self._policy.delay(attempt, error.retry_after))
        finally:
            stats.waiting, stats.note = Waiting.NOTHING, ""


def _halves(batch: Batch) -> tuple[Batch, ...]:
    middle = len(batch) // 2
    if middle == 0:
        return (batch,)
    return batch.slice(0, middle), batch.slice(middle, len(batch))


def failure_free() -> TransientError:
    """Stands for "no error" where nothing is left to try again."""
    return TransientError("nothing failed")
