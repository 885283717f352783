"""Process one batch at one node, and handle everything that can go wrong.

*Transient* failures are tried again with growing, jittered waits. *Permanent* ones of a record go to the
dead letters while the rest of the batch goes on. A side that has too much to do is neither: it is waited
for, and that uses up no try. When the tries are used up, the question is whether the fault is in the
records or in the other side. A single record is sent ahead to find out. If it or anything
else at this node gets through, the batch is halved down to the records that keep failing, and those become
dead letters; if nothing does, it is an outage, which is waited out up to the policy's limit and never
fills the dead letters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engine.contract.batch import Batch, join
from engine.contract.clock import Clock
from engine.errors import BatchError, OutageError, RecordError, StoppingError, TransientError
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.stats import NodeStats, Waiting

__all__ = ["DeadLetterCall", "Delivery", "Failure", "Outcome"]

GIVE_UP_ISOLATING = 8  # failures in a row, nothing succeeding: not a bad record but an outage

Failure: TypeAlias = TransientError | RecordError | BatchError


@dataclass(slots=True)
class Outcome:
    """The result of one attempt: the batch to pass on (or None), and failures by input index.

    The indices are ascending, each comes once.
    """

    derived: Batch | None
    failures: Sequence[tuple[int, RecordError | TransientError]] = ()
    confirmed: bool = True


Call = Callable[[Batch], Awaitable[Outcome]]
Emit = Callable[[Batch, Outcome], Awaitable[None]]
DeadLetterCall = Callable[[Batch, Sequence[tuple[int, RecordError]], int], Awaitable[None]]
Rest: TypeAlias = tuple[Batch, TransientError] | None  # what should be tried again, and why


class Delivery:
    """Runs `call` on batches until each record has reached `emit` or `dead_letter`.

    Args:
        call: one try; raises `TransientError`, `RecordError` or `BatchError`, or returns an `Outcome`.
        emit: takes what succeeded: (the input records of this try, its outcome).
        bury: takes records for the dead letters: (batch, [(index, error)], attempts).
        derives: `call` makes something of the records. Those that a `BatchError` does not name have been
            taken by a sink, but a transform has to be called for them again.
    """

    def __init__(
        self,
        *,
        call: Call,
        emit: Emit,
        dead_letter: DeadLetterCall,
        policy: RetryPolicy,
        health: NodeHealth,
        stats: NodeStats,
        clock: Clock,
        derives: bool = False,
    ) -> None:
        self._call = call
        self._emit = emit
        self._dead_letter = dead_letter
        self._policy = policy
        self._health = health
        self._stats = stats
        self._clock = clock
        self._derives = derives

    async def deliver(self, batch: Batch) -> None:
        """Process every record of `batch`.

        Raises:
            OutageError: nothing succeeded at this node for the policy's limit.
            Exception: whatever else `call`, `emit` or `dead_letter` raised.
        """
        seen, patience = self._health.successes, self._patience()
        await self._persist(await self._try(batch, 1, patience), seen, patience)

    async def accept(self, batch: Batch, outcome: Outcome) -> None:
        """Continue a batch after the outcome of a first attempt made elsewhere."""
        seen, patience = self._health.successes, self._patience()
        rest = await self._outwait(await self._sort_out(batch, outcome, 1), 1, patience)
        await self._persist(rest, seen, patience)

    async def reject(self, batch: Batch, failure: Failure) -> None:
        """Continue a batch after the failure of a first attempt made elsewhere."""
        seen, patience = self._health.successes, self._patience()
        rest = await self._outwait(await self._failed(batch, failure, 1), 1, patience)
        await self._persist(rest, seen, patience)

    def _patience(self) -> float:
        """Until when a batch whose other side has too much to do is tried again and again.

        Not for ever, because a request that is too large for any moment is refused like this.
        """
        return self._clock.monotonic() + self._policy.outage_limit

    def _excuses(self, error: TransientError) -> bool:
        """True when a failure says nothing about the records, and the node may wait."""
        return error.throttled and not self._policy.dead_letter_on_stall

    def _outwaited(self, error: TransientError, patience: float) -> bool:
        """True when such a failure has been heard for so long that the records may be at fault after all."""
        return self._excuses(error) and self._clock.monotonic() >= patience

    async def _persist(self, rest: Rest, seen: int, patience: float) -> None:
        """Try again what failed once, until it is through, dead, or an outage."""
        attempt = 1
        while rest is not None and attempt < self._policy.attempts and not self._outwaited(rest[1], patience):
            todo, error = rest
            seen = self._health.successes
            await self._wait(attempt, error, Waiting.RETRY)
            attempt += 1
            rest = await self._try(todo, attempt, patience)
        if rest is not None:
            await self._exhausted(rest, attempt, seen, patience)

    async def _exhausted(self, rest: Rest, attempt: int, seen: int, patience: float) -> None:
        """The tries are used up: find the records that are to blame, or wait for the other side."""
        health, turn = self._health, 0
        while rest is not None:
            todo, error = rest
            if health.successes == seen:
                rest = await self._probe(todo, error, attempt, turn, patience)
                if rest is None:
                    return
                todo, error = rest
            if health.successes > seen:
                # others got through since the last try, so the fault may be in these records
                rest = await self._isolate(todo, error, attempt, patience)
                if rest is None:
                    return
                todo, error = rest
            if self._policy.dead_letter_on_stall:
                verdict = RecordError(str(error), kind="Stalled")
                await self._dead_letter(todo, [(index, verdict) for index in range(len(todo))], attempt)
                return
            self._check_outage(error)
            seen = health.successes
            await self._wait(attempt, error, Waiting.OUTAGE)
            attempt, turn = attempt + 1, turn + 1
            if len(todo) == 1:
                rest = await self._try(todo, attempt, patience)

    async def _try(self, batch: Batch, attempt: int, patience: float) -> Rest:
        """One try that counts."""
        return await self._outwait(await self._try_once(batch, attempt), attempt, patience)

    async def _outwait(self, rest: Rest, attempt: int, patience: float) -> Rest:
        """Try again for as long as all that the other side says is that it has too much to do.

        That is nothing against the records, so it uses up none of their tries.
        """
        turn, seen = 0, self._health.successes
        while rest is not None and self._excuses(rest[1]) and not self._outwaited(rest[1], patience):
            todo, error = rest
            self._check_outage(error)
            turn += 1
            nobody = turn >= self._policy.attempts and self._health.successes == seen
            waiting = Waiting.OUTAGE if nobody else Waiting.RETRY
            await self._wait(1 if error.retry_after else turn, error, waiting)
            rest = await self._try_once(todo, attempt)
        return rest

    async def _try_once(self, batch: Batch, attempt: int) -> Rest:
        try:
            outcome = await self._call(batch)
        except (TransientError, RecordError, BatchError) as failure:
            caught: Failure = failure
        else:
            return await self._sort_out(batch, outcome, attempt)
        return await self._failed(batch, caught, attempt)

    async def _failed(self, batch: Batch, failure: Failure, attempt: int) -> Rest:
        if isinstance(failure, StoppingError):
            self._stats.undone += len(batch)
            return None
        if isinstance(failure, TransientError):
            self._health.failed(self._clock.monotonic())
            return batch, failure
        if isinstance(failure, BatchError):
            failures = sorted(failure.failures.items())
            good = [index for index in range(len(batch)) if index not in failure.failures]
            if good:
                await self._passed(batch.take(good), confirmed=failure.confirmed)
            return await self._sort_out(batch, Outcome(None, failures), attempt)
        if len(batch) == 1:
            return await self._sort_out(batch, Outcome(None, [(0, failure)]), attempt)
        # the component blamed a record without saying which: find it
        for index in range(len(batch)):
            await self.deliver(batch.slice(index, index + 1))
        return None

    async def _passed(self, part: Batch, *, confirmed: bool) -> None:
        """The records that a partial failure does not name."""
        if self._derives:
            await self.deliver(part)
            return
        self._health.succeeded()
        await self._emit(part, Outcome(part, confirmed=confirmed))

    async def _sort_out(self, batch: Batch, outcome: Outcome, attempt: int) -> Rest:
        """Hand on what succeeded and bury what is final; returns what should be tried again."""
        final = [(index, one) for index, one in outcome.failures if isinstance(one, RecordError)]
        waiting = [(index, one) for index, one in outcome.failures if isinstance(one, TransientError)]
        again = [(index, one) for index, one in waiting if not isinstance(one, StoppingError)]
        self._stats.undone += len(waiting) - len(again)
        if outcome.derived is not None:
            if len(outcome.failures) < len(batch):
                self._health.succeeded()
            await self._emit(batch, outcome)
        if final:
            # a verdict on a record is an answer too: the other side is there
            self._health.succeeded()
            await self._dead_letter(batch, final, attempt)
        if not again:
            return None
        self._health.failed(self._clock.monotonic())
        return batch.take([index for index, _ in again]), _together([one for _, one in again])

    async def _probe(
        self, batch: Batch, error: TransientError, attempt: int, turn: int, patience: float
    ) -> Rest:
        """Send single records ahead; once one gets through, the others follow."""
        if len(batch) == 1:
            return batch, error
        for index in _canaries(batch, turn):
            rest = await self._try(batch.slice(index, index + 1), attempt + 1, patience)
            if rest is None:
                others = batch.take([other for other in range(len(batch)) if other != index])
                return await self._try(others, attempt + 1, patience)
            error = rest[1]
        return batch, error

    async def _isolate(self, batch: Batch, error: TransientError, attempt: int, patience: float) -> Rest:
        """Halve a failing batch, in order, down to the records that fail alone, and bury those.

        Returns None when every record has its fate, or what is left when it turns out to be an outage.
        """
        health = self._health
        if len(batch) == 1:
            await self._dead_letter_suspects([(batch, error)], attempt)
            return None
        began = health.successes
        queue = deque(_halves(batch))
        suspects: list[tuple[Batch, TransientError]] = []  # failed alone, and nothing has succeeded since
        in_a_row, most = 0, GIVE_UP_ISOLATING + len(batch).bit_length()
        while queue and in_a_row < most:
            before = health.successes
            rest = await self._try(queue.popleft(), attempt + 1, patience)
            in_a_row += 1
            if health.successes > before:
                await self._dead_letter_suspects(suspects, attempt + 1)
                suspects, in_a_row = [], 0
            if rest is None:
                continue
            part, error = rest
            if len(part) == 1:
                suspects.append(rest)
            else:
                queue.extendleft(reversed(_halves(part)))
            if error.retry_after:
                await self._wait(1, error, Waiting.RETRY)
        if queue or health.successes == began:
            # nothing at all got through: not these records but the other side
            return join([*(part for part, _ in suspects), *queue]), error
        await self._ask_again(suspects, attempt + 1, patience)
        return None

    async def _ask_again(
        self, suspects: Sequence[tuple[Batch, TransientError]], attempt: int, patience: float
    ) -> None:
        """Nothing is behind these to tell bad records from the start of an outage: they get all tries."""
        tries = 1
        while suspects and tries < self._policy.attempts:
            before = self._health.successes
            await self._wait(tries, suspects[-1][1], Waiting.RETRY)
            tries, attempt = tries + 1, attempt + 1
            replies = [await self._try(part, attempt, patience) for part, _ in suspects]
            suspects = [rest for rest in replies if rest is not None]
            if self._health.successes > before:
                break
        await self._dead_letter_suspects(suspects, attempt)

    async def _dead_letter_suspects(
        self, suspects: Sequence[tuple[Batch, TransientError]], attempt: int
    ) -> None:
        for part, reason in suspects:
            await self._dead_letter(part, [(0, RecordError(str(reason), kind="RetriesExhausted"))], attempt)

    def _check_outage(self, error: TransientError) -> None:
        lasted = self._health.failed(self._clock.monotonic())
        if lasted >= self._policy.outage_limit:
            raise OutageError(
                f"{self._stats.name!r} could deliver nothing for {lasted:.0f} s; last answer: {error}",
                node=self._stats.name,
            ) from error

    async def _wait(self, attempt: int, error: TransientError, waiting: Waiting) -> None:
        self._stats.retries += 1
        with self._stats.waits(waiting, str(error)[:200]):
            await self._clock.sleep(self._policy.delay(attempt, error.retry_after))


def _together(errors: Sequence[TransientError]) -> TransientError:
    """What several failures say: the other side is busy only if all say so, and the longest wait counts."""
    telling = [one for one in errors if not one.throttled] or errors
    error = max(telling, key=lambda one: one.retry_after or 0.0)
    longest = max((one.retry_after or 0.0 for one in errors), default=0.0)
    if longest <= (error.retry_after or 0.0):
        return error
    waiting = TransientError(str(error))
    waiting.__cause__ = error
    waiting.retry_after = longest  # which is no excuse for the failures that are none of a busy side
    return waiting


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    return batch.slice(0, middle), batch.slice(middle, len(batch))


def _canaries(batch: Batch, turn: int) -> list[int]:
    """Two records to send ahead, others at each turn; never the second of two with the same key."""
    first: dict[str, int] = {}
    for index, key in enumerate(batch.keys.to_list()):
        first.setdefault(key, index)
    chosen = list(first.values())
    return list(dict.fromkeys([chosen[turn % len(chosen)], chosen[-1 - turn % len(chosen)]]))
