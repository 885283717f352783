"""The route of undeliverable records: stored, then forwarded, then settled."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import islice
from typing import Protocol, runtime_checkable

import orjson
from pydantic import BaseModel

from engine.contract.acks import Tally
from engine.contract.batch import Batch
from engine.contract.clock import Clock, timestamp
from engine.contract.component import Sink
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.keys import KeyList
from engine.contract.plain import in_order, model_to_json
from engine.contract.records import Makers, non_record_error
from engine.contract.types import JsonValue, Record
from engine.contract.unplanned import escaped
from engine.errors import DeadLetterBudgetError, RecordError
from engine.fault_injection import reached
from engine.flow.delivery import Delivery, Outcome
from engine.flow.errors import classify_error
from engine.flow.limits import DeathWatch
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.stats import NodeStats
from engine.plan.model import DeadLetterSettings
from engine.redaction import without_credentials
from engine.state.dead_letters import storable
from engine.state.records import DeadLetterFilter, JournalFilter
from engine.state.store import StateStore

LARGEST_RECORD = 256 * 1024
MAX_MESSAGE_LENGTH = 2000
DEEPEST = 12
MAX_INTEGER_BITS = 14_000  # bits; Python formats at most 4,300 digits


@runtime_checkable
class TakesDeadLetters(Protocol):
    """A sink with its own format for dead letters."""

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Deliver dead letters; errors as in `Sink.write`."""


class DeadLetterRoute:
    """Stores and forwards the failed records of one run.

    Args:
        store: stores the dead letters; if it cannot, the run stops.
        forward: the open sink that also receives them, with its stats and policy.
        tally: records read and dead so far, over all attempts of the run; `own` is this process's part.
        epoch: epoch of the lease; a process that has lost it cannot store dead letters.
        chunk: the part of the run that this process works on; "" for the whole run.
        makers: by node, the methods that make its records, to name the one that made no record.
    """

    def __init__(
        self,
        *,
        run_id: str,
        pipeline: str,
        store: StateStore,
        settings: DeadLetterSettings,
        clock: Clock,
        tally: Callable[[], Tally],
        own: Callable[[], Tally] | None = None,
        epoch: int | None = None,
        chunk: str = "",
        makers: Mapping[str, Makers] | None = None,
    ) -> None:
        self._run_id = run_id
        self._pipeline = pipeline
        self._store = store
        self._settings = settings
        self._clock = clock
        self._tally = tally
        self._own = own or tally
        self._base: int | None = None
        self._watch = DeathWatch(settings)
        self._epoch = epoch
        self._chunk = chunk
        self._makers = makers or {}
        self._forward: Delivery | None = None
        self._exceeded = False
        self._paid: dict[tuple[str, str], list[JournalEntry]] | None = None
        self.count = 0

    def forward_to(self, sink: Sink[BaseModel], stats: NodeStats, policy: RetryPolicy) -> None:
        """Forward every stored dead letter to this sink."""

        async def call(batch: Batch) -> Outcome:
            try:
                await sink.ctx.lease.confirm()
                if isinstance(sink, TakesDeadLetters):
                    await sink.write_dead_letters(batch.records)
                else:
                    rows = [letter_json(letter) for letter in batch.records]
                    await sink.write(batch.replace(rows))
            except BaseException as error:
                failure = classify_error(stats.name, escaped(error), batch)
                if failure is error:
                    raise
                raise failure from error
            return Outcome(batch)

        async def emit(batch: Batch, outcome: Outcome) -> None:
            stats.records_out += len(batch)

        async def dead_letter(
            batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
        ) -> None:
            # the dead letters are safe in the store; only their copy was rejected
            if not stats.dead:
                reason = without_credentials(str(failures[0][1]))[:MAX_MESSAGE_LENGTH]
                stats.aggregate[f"rejected: {reason}"] = 1  # the first
            stats.dead += len(failures)

        self._forward_stats = stats
        self._forward = Delivery(
            call=call,
            emit=emit,
            dead_letter=dead_letter,
            policy=policy,
            health=NodeHealth(),
            stats=stats,
            clock=self._clock,
            is_answering=sink.is_answering,
        )

    async def put(
        self, node: NodeStats, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        """Store, forward and settle these records of a batch.

        Raises:
            DeadLetterBudgetError: there are now more than the pipeline allows.
            StateError: they could not be stored.
        """
        keys, makers = batch.keys.to_list(), self._makers.get(node.name, ())
        now = timestamp(self._clock.now())
        letters = [
            self._letter(node.name, keys[index], record, error, attempts, now)
            for index, failure in failures
            for record in [batch.records[index]]
            for error in [non_record_error([record], makers) or failure]
        ]
        await self._store.put_dead_letters(letters, epoch=self._epoch, chunk=self._chunk)
        reached("dead_letter_stored")
        await self._forward_and_settle(node.name, letters, batch.take([index for index, _ in failures]))
        self._check_budget(node, len(letters), len(batch), letters[0])

    def begin(self) -> None:
        """Note the counts of earlier attempts, just before reading begins."""
        own = self._own()
        self._base = own.read + own.forked

    async def resettle(self, node: NodeStats, batch: Batch) -> None:
        """Settle records that died in an earlier attempt; forward dead letters that are still open again.

        It is unknown whether they were forwarded, and copies have the same id each time.
        """
        keys = batch.keys.to_list()
        letters: list[DeadLetter] = []
        for key in keys:
            where = DeadLetterFilter(run_id=self._run_id, node=node.name, key=key)
            letters += await self._store.dead_letters(where)
        await self._book_again(node.name, keys, batch)
        still_open = [one for one in letters if one.status == "open"]
        await self._forward_and_settle(node.name, still_open, batch)
        if still_open:
            self._check_budget(node, len(batch), len(batch), still_open[0])

    async def _book_again(self, node: str, keys: Sequence[str], batch: Batch) -> None:
        """Book costs that an earlier attempt paid for these records but did not commit."""
        if self._paid is None:
            self._paid = {}
            for entry in await self._store.list_journal(JournalFilter(run_id=self._run_id)):
                if entry.record:
                    self._paid.setdefault((entry.node, entry.record), []).append(entry)
        for index, key in enumerate(keys):
            for entry in self._paid.get((node, storable(key)), ()):
                part = batch.slice(index, index + 1)
                part.spend(entry.tokens_in, entry.tokens_out, entry.cost_usd)

    async def _forward_and_settle(self, node: str, letters: Sequence[DeadLetter], dead: Batch) -> None:
        if self._forward is not None and letters:
            self._forward_stats.records_in += len(letters)
            self._forward_stats.batches += 1
            # a record that dies at two nodes has two dead letters under one key
            keys = KeyList([f"{letter.node}/{letter.key}" for letter in letters])
            await self._forward.deliver(Batch(list(letters), keys))
            reached("dead_letter_forwarded")
        keys_left = iter(dead.keys.to_list())
        for ack, count in dead.origins:
            ack.dead(count, node, list(islice(keys_left, count)))
        self.count += len(dead)

    def _letter(
        self, node: str, key: str, record: Record, error: RecordError, attempts: int, now: str
    ) -> DeadLetter:
        value, size = as_json(record)
        oversize = size > LARGEST_RECORD
        return DeadLetter(
            run_id=self._run_id,
            pipeline=self._pipeline,
            node=node,
            key=key,
            stage=error.stage or node,
            error_type=error.kind,
            error_message=without_credentials(str(error))[:MAX_MESSAGE_LENGTH],
            record=None if oversize else value,
            reference=_reference(value, key) if oversize else "",
            attempts=attempts,
            first_failed_at=now,
            last_failed_at=now,
        )

    def _check_budget(self, node: NodeStats, count: int, batch: int, latest: DeadLetter) -> None:
        if self._exceeded or not self._settings.limited:
            return
        # each copy of a fan-out can die, so a share of only the read records might exceed 100 %
        tally, base = self._tally(), self._base or 0
        allowed = self._watch.exceeded(node.name, node.records_in, count, batch, self._own(), base, tally)
        if allowed:
            self._exceeded = True  # only once, since other nodes finish what they have in flight
            letters = "1 dead letter" if tally.dead == 1 else f"{tally.dead:,} dead letters"
            raise DeadLetterBudgetError(
                f"{letters}, {allowed}; the last at {latest.node!r}: {latest.error_type}"
            )


def as_json(record: Record) -> tuple[JsonValue, int]:
    """Return a record as JSON-safe values, and its size as JSON in bytes."""
    if isinstance(record, BaseModel):
        try:
            record = model_to_json(record)
        except ValueError:  # bytes that are not text, and values without a JSON form
            record = _fields(record)
    try:
        text = orjson.dumps(record, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        # integers over 64 bits, lone surrogates, cycles: one such record must not stop the run
        value = _storable(record, DEEPEST)
        return value, len(json.dumps(value, ensure_ascii=False).encode())
    return orjson.loads(text), len(text)


def _fields(record: BaseModel) -> Record:
    try:
        return record.model_dump()
    except ValueError:  # a custom serializer of the model fails
        return dict(record)


def _plain(value: object) -> object:
    return in_order(value) if isinstance(value, Set) else _text(value)


def _storable(value: object, depth: int) -> JsonValue:
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {_text(key): _storable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        items = [_storable(item, depth - 1) for item in value]
        return in_order(items) if isinstance(value, Set) else items
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > MAX_INTEGER_BITS:
        return hex(value)
    if value is None or isinstance(value, bool | float | int):
        return value
    return _text(value)


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - foreign code: a value's own `__str__` must not stop the run
        text = f"<{type(value).__name__}: no text ({type(error).__name__})>"
    return text.encode("utf-8", "backslashreplace").decode()


def letter_json(letter: DeadLetter) -> dict[str, JsonValue]:
    """Return a dead letter as a plain mapping."""
    return {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}


def _reference(value: JsonValue, key: str) -> str:
    if isinstance(value, dict):
        for name in ("file_path", "source_file_path", "uri"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return key
