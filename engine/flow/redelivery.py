"""Redelivery of records that the first attempt of a batch left over.

When the attempts are used up, either the records or the service may be at fault. To find out, a single record
is sent ahead, and if supported, the component tests the service with another request. If that or anything
else at this node succeeds, the batch is halved down to the records that keep failing, which become dead
letters. If nothing succeeds, it is an outage, which is waited out up to the policy's limit and never fills
the dead letters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.contract.batch import Batch, join
from engine.contract.clock import Clock
from engine.errors import RecordError, TransientError
from engine.flow.retry import NodeHealth, RetryPolicy, check_outage
from engine.flow.stats import NodeStats, Waiting

GIVE_UP_ISOLATING = 8  # consecutive failures that mean an outage rather than a bad record

DeadLetterCall = Callable[[Batch, Sequence[tuple[int, RecordError]], int], Awaitable[None]]
Remainder: TypeAlias = tuple[Batch, TransientError]
"""The records of a batch to retry, and the reason."""
Tries = Callable[[Batch, int], Awaitable[Remainder | None]]
"""Makes one attempt, given its number, and returns the records to retry."""


@dataclass(slots=True, kw_only=True)
class Redelivery:
    """The redelivery of one batch at one node, with its remaining patience.

    Create it before the first attempt, which its owner makes: it remembers the successes at the node until
    then.

    Args:
        tries: makes one attempt at a batch or a part of it.
        dead_letter: receives records for the dead letters: (batch, [(index, error)], attempts).
        is_answering: returns whether the service handles other requests now (`Component.is_answering`).

    Attributes:
        attempt: number of the last attempt at the batch, from 1; attempts at parts of it have the next
            number.
    """

    tries: Tries
    dead_letter: DeadLetterCall
    policy: RetryPolicy
    health: NodeHealth
    stats: NodeStats
    clock: Clock
    is_answering: Callable[[], Awaitable[bool]]
    attempt: int = field(default=1, init=False)
    _seen: int = field(init=False)
    _patience: float = field(init=False)

    def __post_init__(self) -> None:
        self._seen = self.health.successes  # at the node, before the last attempt of the whole batch
        # until when a throttled batch is retried; bounded, because a request that is always too large is
        # rejected the same way
        self._patience = self.clock.monotonic() + self.policy.outage_limit

    async def finish(self, rest: Remainder | None) -> None:
        """Retry what the first attempt left over, until it is delivered, dead, or an outage.

        Raises:
            OutageError: nothing succeeded at this node for the policy's limit.
        """
        rest = await self._outwait(rest, 1)
        while rest is not None and self.attempt < self.policy.attempts and not self._outwaited(rest[1]):
            todo, error = rest
            self._seen = self.health.successes
            await self._wait(self.attempt, error, Waiting.RETRY)
            self.attempt += 1
            rest = await self._try(todo, self.attempt)
        if rest is not None:
            await self._exhausted(rest)

    def _excuses(self, error: TransientError) -> bool:
        """Return whether a failure is unrelated to the records, and the node may wait."""
        return error.throttled and not self.policy.dead_letter_on_stall

    def _outwaited(self, error: TransientError) -> bool:
        """Return whether such a failure has lasted so long that the records may be at fault after all."""
        return self._excuses(error) and self.clock.monotonic() >= self._patience

    async def _exhausted(self, last: Remainder) -> None:
        """After the last attempt: find the records at fault, or wait for the service."""
        health, turn = self.health, 0
        rest: Remainder | None = last
        while rest is not None:
            todo, error = rest
            if health.successes == self._seen:
                rest = await self._probe(todo, error, turn)
                if rest is None:
                    return
                todo, error = rest
            others = health.successes > self._seen
            if not others and await self._answers():
                others = True
                if len(todo) == 1:
                    # an outage may have ended since the last attempt; a new attempt shows it
                    self.attempt += 1
                    rest = await self._try(todo, self.attempt)
                    if rest is None:
                        return
                    todo, error = rest
            if others:
                # other records succeeded since the last attempt, so these may be at fault
                rest = await self._isolate(todo, error)
                if rest is None:
                    return
                todo, error = rest
            if self.policy.dead_letter_on_stall:
                verdict = RecordError(str(error), kind="Stalled")
                await self.dead_letter(todo, [(index, verdict) for index in range(len(todo))], self.attempt)
                return
            self._check_outage(error)
            self._seen = health.successes
            await self._wait(self.attempt, error, Waiting.OUTAGE)
            self.attempt, turn = self.attempt + 1, turn + 1
            if len(todo) == 1:
                rest = await self._try(todo, self.attempt)

    async def _try(self, batch: Batch, attempt: int) -> Remainder | None:
        """Make one attempt that counts."""
        return await self._outwait(await self.tries(batch, attempt), attempt)

    async def _outwait(self, rest: Remainder | None, attempt: int) -> Remainder | None:
        """Retry while the service only reports that it is overloaded.

        The records are not at fault, so this uses up none of their attempts.
        """
        turn, seen = 0, self.health.successes
        while rest is not None and self._excuses(rest[1]) and not self._outwaited(rest[1]):
            todo, error = rest
            self._check_outage(error)
            turn += 1
            none_succeed = turn >= self.policy.attempts and self.health.successes == seen
            waiting = Waiting.OUTAGE if none_succeed else Waiting.RETRY
            await self._wait(1 if error.retry_after else turn, error, waiting)
            rest = await self.tries(todo, attempt)
        return rest

    async def _answers(self) -> bool:
        """Send the service another request; its success is a success at this node."""
        if not await self.is_answering():
            return False
        self.health.succeeded()
        return True

    async def _probe(self, batch: Batch, error: TransientError, turn: int) -> Remainder | None:
        """Send single records ahead; once one succeeds, the others follow."""
        if len(batch) == 1:
            return batch, error
        for index in _canaries(batch, turn):
            rest = await self._try(batch.slice(index, index + 1), self.attempt + 1)
            if rest is None:
                others = batch.take([other for other in range(len(batch)) if other != index])
                return await self._try(others, self.attempt + 1)
            error = rest[1]
        return batch, error

    async def _isolate(self, batch: Batch, error: TransientError) -> Remainder | None:
        """Halve a failing batch, in order, down to the records that fail alone; these die.

        Returns None when every record is delivered or dead, or the rest if it turns out to be an outage.
        """
        health = self.health
        if len(batch) == 1:
            await self._dead_letter_suspects([(batch, error)], self.attempt)
            return None
        began = health.successes
        queue = deque(_halves(batch))
        suspects: list[Remainder] = []  # failed alone, and nothing has succeeded since
        in_a_row, most = 0, GIVE_UP_ISOLATING + len(batch).bit_length()
        while queue:
            if in_a_row == most:
                if not await self._answers():
                    break
                await self._dead_letter_suspects(suspects, self.attempt + 1)
                suspects, in_a_row = [], 0
            before = health.successes
            rest = await self._try(queue.popleft(), self.attempt + 1)
            in_a_row += 1
            if health.successes > before:
                await self._dead_letter_suspects(suspects, self.attempt + 1)
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
        if queue or (health.successes == began and not await self._answers()):
            # nothing succeeded at all: the service is at fault, not these records
            return join([*(part for part, _ in suspects), *queue]), error
        await self._ask_again(suspects, self.attempt + 1)
        return None

    async def _ask_again(self, suspects: Sequence[Remainder], attempt: int) -> None:
        """Use all attempts for these: no later record shows whether they are bad or an outage begins."""
        tries = 1
        while suspects and tries < self.policy.attempts:
            before = self.health.successes
            await self._wait(tries, suspects[-1][1], Waiting.RETRY)
            tries, attempt = tries + 1, attempt + 1
            replies = [await self._try(part, attempt) for part, _ in suspects]
            suspects = [rest for rest in replies if rest is not None]
            if self.health.successes > before:
                break
        await self._dead_letter_suspects(suspects, attempt)

    async def _dead_letter_suspects(self, suspects: Sequence[Remainder], attempt: int) -> None:
        for part, reason in suspects:
            await self.dead_letter(part, [(0, RecordError(str(reason), kind="RetriesExhausted"))], attempt)

    def _check_outage(self, error: TransientError) -> None:
        check_outage("deliver nothing", self.stats, self.policy, self.health, self.clock, error)

    async def _wait(self, attempt: int, error: TransientError, waiting: Waiting) -> None:
        self.stats.retries += 1
        lasted = self.health.lasted(self.clock.monotonic())
        with self.stats.waits(waiting, str(error)[:200]):
            await self.clock.sleep(self.policy.delay(attempt, error.retry_after, lasted))


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    return batch.slice(0, middle), batch.slice(middle, len(batch))


def _canaries(batch: Batch, turn: int) -> list[int]:
    """Return two records to send ahead, others at each turn; never the second of two with the same key."""
    first: dict[str, int] = {}
    for index, key in enumerate(batch.keys.to_list()):
        first.setdefault(key, index)
    chosen = list(first.values())
    return list(dict.fromkeys([chosen[turn % len(chosen)], chosen[-1 - turn % len(chosen)]]))
