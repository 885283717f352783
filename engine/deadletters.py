"""Where records go that cannot be delivered: stored, then forwarded, then settled, in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import orjson
from pydantic import BaseModel

from engine.batch import Batch, DeadLetter, JsonValue, Record
from engine.clock import Clock, timestamp
from engine.component import Sink
from engine.errors import DeadLetterBudgetError, RecordError
from engine.flow.delivery import Delivery, Outcome
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.keys import KeyList
from engine.plan import DeadLetterSettings
from engine.state.protocol import StateStore
from engine.stats import NodeStats

__all__ = ["DeadLetterRoute", "TakesDeadLetters", "as_json"]

LARGEST_RECORD = 256 * 1024
SHARE_COUNTS_FROM = 100
LONGEST_MESSAGE = 2000


@runtime_checkable
class TakesDeadLetters(Protocol):
    """A sink that has a form of its own for dead letters."""

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Deliver letters; errors as in `Sink.write`."""
        ...


@dataclass(slots=True)
class _Origin:
    run_id: str
    pipeline: str


class DeadLetterRoute:
    """Takes failed records of one run.

    Args:
        store: where letters are kept; one that cannot be stored stops the run.
        forward: the sink that also gets them, already open, with its stats and policy.
        records_read: how many records the run has read so far, for budgets given as a share.
    """

    def __init__(
        self,
        *,
        run_id: str,
        pipeline: str,
        store: StateStore,
        settings: DeadLetterSettings,
        clock: Clock,
        records_read: Callable[[], int],
    ) -> None:
        self._origin = _Origin(run_id, pipeline)
        self._store = store
        self._settings = settings
        self._clock = clock
        self._records_read = records_read
        self._forward: Delivery | None = None
        self.count = 0

    def forward_to(self, sink: Sink[BaseModel], stats: NodeStats, policy: RetryPolicy) -> None:
        """Send every letter to this sink as well, once it is stored."""

        async def call(batch: Batch) -> Outcome:
            if isinstance(sink, TakesDeadLetters):
                await sink.write_dead_letters(batch.records)
            else:
                rows = [letter_json(letter) for letter in batch.records]
                await sink.write(batch.replace(rows))
            return Outcome(batch)

        async def emit(batch: Batch, outcome: Outcome) -> None:
            stats.records_out += len(batch)

        async def bury(batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int) -> None:
            # the letters themselves are safe in the store; only their copy was refused
            stats.dead += len(failures)

        self._forward = Delivery(
            call=call,
            emit=emit,
            bury=bury,
            policy=policy,
            health=NodeHealth(),
            stats=stats,
            clock=self._clock,
        )

    async def bury(
        self, node: NodeStats, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        """Store, forward and settle these records of a batch.

        Raises:
            DeadLetterBudgetError: there are more now than the pipeline allows.
            StateError: they could not be stored.
        """
        keys = batch.keys.to_list()
        now = timestamp(self._clock.now())
        letters = [
            self._letter(node.name, keys[index], batch.records[index], error, attempts, now)
            for index, error in failures
        ]
        await self._store.put_dead_letters(letters)
        if self._forward is not None:
            await self._forward.deliver(Batch(list(letters), KeyList([letter.key for letter in letters])))
        dead = batch.take([index for index, _ in failures])
        for ack, count in dead.origins:
            ack.dead(count)
        self.count += len(letters)
        self._check_budget(letters[0])

    def _letter(
        self, node: str, key: str, record: Record, error: RecordError, attempts: int, now: str
    ) -> DeadLetter:
        value, size = as_json(record)
        oversize = size > LARGEST_RECORD
        return DeadLetter(
            run_id=self._origin.run_id,
            pipeline=self._origin.pipeline,
            node=node,
            key=key,
            stage=error.stage or node,
            error_type=error.kind,
            error_message=str(error)[:LONGEST_MESSAGE],
            record=None if oversize else value,
            reference=_reference(value, key) if oversize else "",
            attempts=attempts,
            first_failed_at=now,
            last_failed_at=now,
        )

    def _check_budget(self, latest: DeadLetter) -> None:
        most, share, read = self._settings.max_count, self._settings.max_share, self._records_read()
        allowed = ""
        if most is not None and self.count > most:
            allowed = f"{most}"
        elif share is not None and read >= SHARE_COUNTS_FROM and self.count > share * read:
            allowed = f"{share:.0%} of {read}"
        if allowed:
            raise DeadLetterBudgetError(
                f"{self.count} dead letters, {allowed} are allowed; "
                f"the last at {latest.node!r}: {latest.error_type}"
            )


def as_json(record: Record) -> tuple[JsonValue, int]:
    """A record as JSON-safe values, and how many bytes of JSON that is."""
    if isinstance(record, BaseModel):
        record = record.model_dump(mode="json")
    text = orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS)
    return orjson.loads(text), len(text)


def letter_json(letter: DeadLetter) -> dict[str, JsonValue]:
    """A letter as a plain mapping."""
    return {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}


def _reference(value: JsonValue, key: str) -> str:
    if isinstance(value, dict):
        for name in ("file_path", "source_file_path", "uri"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return key
