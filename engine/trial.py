"""Plans for trials of a pipeline: sources that stop early or are sampled, sinks that only count.

A trial changes only the plan: the same kernel runs it, so it behaves like a full run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from engine.contract.batch import Batch, Failure, join
from engine.contract.callables import generator_of
from engine.contract.checking import ChecksRecords, RecordCheck
from engine.contract.component import Component, Context, Kind, NoParams, Receipt, Sink, Source
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.errors import BatchError, ConfigError, StateMissingError
from engine.plan.model import Plan, PlanNode
from engine.state.memory import MemoryStateStore
from engine.state.store import StateStore

MAX_SAMPLE = 100_000  # records of a sample are held in memory until their split has been read
READ_BEYOND = 20  # records read from a split, in multiples of those it contributes to the sample
READING = "reading"

STOPPED_AFTER, READ_AGAIN = "stopped_after", "read_again"
SAMPLED, SAMPLED_SPLITS = "sampled", "sampled_splits"
"""Names of the numbers that sources of a trial report (`RunReport.nodes`)."""

_INNER = "whole"
_SHARE = "share"


@dataclass(frozen=True, slots=True)
class Reading:
    """How much each source of a run reads; None for all.

    Args:
        limit: stop after this many records.
        sample: draw this many random records from random splits.
        seed: seed of the sample; another seed draws another sample.

    Raises:
        ConfigError: both are given, or one is not positive or too large.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.sample is not None:
            raise ConfigError("--limit and --sample exclude each other: a sample has its size already")
        for name, value in (("--limit", self.limit), ("--sample", self.sample)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected a number of records from 1, got {value}")
        if self.sample is not None and self.sample > MAX_SAMPLE:
            raise ConfigError(f"--sample: at most {MAX_SAMPLE} records, got {self.sample}; or use --limit")

    @property
    def partial(self) -> bool:
        """Whether sources may leave records unread."""
        return self.limit is not None or self.sample is not None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the values that are set."""
        given = {"limit": self.limit, "sample": self.sample, "seed": self.seed or None}
        return {name: value for name, value in given.items() if value is not None}


def reading_of(operational_doc: JsonValue) -> Reading:
    """Return the reading of a stored run, so that a resume has the same limit."""
    stored = operational_doc.get(READING) if isinstance(operational_doc, dict) else None
    return Reading(**stored) if isinstance(stored, dict) else Reading()


def with_reading(plan: Plan, reading: Reading) -> Plan:
    """Return the plan with sources that read no more than `reading` allows.

    Unread records get no bookmark, and the run's operational settings include the limit.
    """
    if not reading.partial:
        return plan
    doc = plan.operational_doc if isinstance(plan.operational_doc, dict) else {}
    return replace(
        plan,
        nodes=tuple(
            _reading_less(node, reading) if node.kind is Kind.SOURCE else node for node in plan.nodes
        ),
        # reading little is intended in a trial
        settings=replace(plan.settings, min_records=0),
        operational_doc={**doc, READING: reading.to_json()},
    )


def _reading_less(node: PlanNode, reading: Reading) -> PlanNode:
    whole = node.spec.factory

    def build(params: BaseModel, connection: BaseModel | None) -> Component[Any]:
        source = whole(params, connection)
        assert isinstance(source, Source)
        if reading.limit is not None:
            _Limited(source, reading.limit, bookmarks=node.spec.keeps_bookmarks(params)).install()
        elif reading.sample is not None:
            _Sampled(source, reading.sample, reading.seed).install()
        return source

    return replace(node, spec=replace(node.spec, factory=build))


def _original(source: Source[Any], name: str) -> Any:
    """Return the source's original method, since a factory may return the same component each time."""
    method = getattr(source, name)
    return getattr(method, _INNER, method)


def _install(source: Source[Any], name: str, method: Callable[..., Any]) -> None:
    setattr(method, _INNER, _original(source, name))
    setattr(source, name, method)


class _Limited:
    """Ends the reading of a source after a number of records, over all its splits and attempts at the run.

    `bookmarks`: a later run reads what no bookmark covers.
    """

    def __init__(self, source: Source[Any], limit: int, *, bookmarks: bool) -> None:
        self._source = source
        self._left = self._limit = limit
        self._bookmarks = bookmarks
        self._unmarked: dict[str, int] = {}  # records of each split since its last bookmark

    def install(self) -> None:
        """Replace the source's `read`."""
        source = self._source
        read, extract = _original(source, "read"), _original(source, "extract")

        async def limited_read(
            split: Split, position: JsonValue, ctx: Context
        ) -> AsyncGenerator[Batch, None]:
            spent = self._limit - self._left
            self._spend(max(0, ctx.read_before - spent))  # at first: later, more than that is spent
            if not self._left:
                return
            async with aclosing(generator_of(read, split, position, ctx)) as batches:
                async for batch in batches:
                    yield self._cut(batch, position, split.key)
                    if not self._left:
                        return
                    position = batch.position

        async def limited_extract() -> AsyncGenerator[Record | list[Record], None]:
            async with aclosing(generator_of(extract)) as items:
                async for item in items:
                    yield self._cut_item(item)
                    if not self._left:
                        return

        if type(source).read is not Source.read:
            _install(source, "read", limited_read)
        _install(source, "extract", limited_extract)

    def _spend(self, count: int) -> None:
        self._left = max(0, self._left - count)
        if not self._left:
            self._source.ctx.aggregate[STOPPED_AFTER] = self._limit
            if self._bookmarks:
                self._source.ctx.aggregate[READ_AGAIN] = sum(self._unmarked.values())

    def _cut(self, batch: Batch, before: JsonValue, split: str) -> Batch:
        whole = len(batch) <= self._left
        unmarked = self._unmarked.get(split, 0) + min(len(batch), self._left)
        self._unmarked[split] = 0 if whole and batch.bookmarks else unmarked
        if whole:
            self._spend(len(batch))
            return batch
        part = batch.slice(0, self._left)
        # a resume begins at the cut batch, and its bookmarks may cover records that were cut off
        part.position, part.reservation = before, batch.reservation
        part.failures = [failure for failure in batch.failures if failure[0] < self._left]
        self._spend(len(part))
        return part

    def _cut_item(self, item: Record | list[Record]) -> Record | list[Record]:
        if isinstance(item, list):
            item = item[: self._left]
        self._spend(len(item) if isinstance(item, list) else 1)
        return item


class _Sampled:
    """Draws records from some splits of a source.

    The same seed draws the same splits. Each contributes the same number of records, drawn from the first
    `READ_BEYOND` times as many; a split with fewer leaves the rest to later splits.
    """

    def __init__(self, source: Source[Any], size: int, seed: int) -> None:
        self._source = source
        self._size, self._seed = size, seed
        self._spare = 0

    def install(self) -> None:
        """Replace the source's `splits` and `read`."""
        source = self._source
        if type(source).read is Source.read:
            extract = _original(source, "extract")

            async def sampled_extract() -> AsyncGenerator[Record | list[Record], None]:
                yield await self._drawn(generator_of(extract))

            _install(source, "extract", sampled_extract)
            return
        splits, read = _original(source, "splits"), _original(source, "read")

        async def sampled_splits(ctx: Context) -> AsyncIterator[Split]:
            for split in await self._choose(splits(ctx)):
                yield split

        async def sampled_read(
            split: Split, position: JsonValue, ctx: Context
        ) -> AsyncGenerator[Batch, None]:
            if position is None:
                share, manifest = split.manifest[_SHARE], split.manifest[_INNER]
                whole = replace(split, manifest=manifest)
                batch = await self._picked(split.key, share, generator_of(read, whole, position, ctx))
                if batch is not None:
                    yield batch

        _install(source, "splits", sampled_splits)
        _install(source, "read", sampled_read)
        _install(source, "can_list_after", lambda last: False)

    def _random(self, place: str) -> Random:
        ctx = self._source.ctx
        return Random(f"{self._seed}:{ctx.node}:{place}")  # noqa: S311 - to be repeated, not to be kept secret

    async def _choose(self, splits: AsyncIterator[Split]) -> list[Split]:
        """Choose at most as many splits as records, in order, holding few of a long listing.

        The manifest of each holds its share, since a resume does not list again.
        """
        random, chosen, seen = self._random("splits"), list[tuple[int, Split]](), 0
        async for split in splits:
            _reservoir(random, chosen, self._size, seen, (seen, split))
            seen += 1
        chosen.sort(key=lambda one: one[0])
        share, extra = divmod(self._size, max(1, len(chosen)))
        self._source.ctx.aggregate[SAMPLED_SPLITS] = len(chosen)
        return [
            replace(split, manifest={_SHARE: share + (at < extra), _INNER: split.manifest})
            for at, (_, split) in enumerate(chosen)
        ]

    async def _picked(self, key: str, share: int, batches: AsyncGenerator[Batch, None]) -> Batch | None:
        share, self._spare = share + self._spare, 0
        random, seen = self._random(key), 0
        chosen: list[tuple[int, Batch, Failure | None]] = []
        position: JsonValue = None
        async with aclosing(batches):
            async for batch in batches:
                failed = dict(batch.failures)
                for index in range(len(batch)):
                    item = (seen, batch.slice(index, index + 1), failed.get(index))
                    _reservoir(random, chosen, share, seen, item)
                    seen += 1
                position = batch.position
                if batch.reservation is not None:
                    batch.reservation.release()
                if seen >= share * READ_BEYOND:
                    break
        self._spare += share - len(chosen)
        self._note(len(chosen))
        if not chosen:
            return None
        chosen.sort(key=lambda one: one[0])
        drawn = join([batch for _, batch, _ in chosen])
        drawn.position = position
        drawn.failures = [(at, error) for at, (_, _, error) in enumerate(chosen) if error is not None]
        if self._source.reserves:
            drawn.reservation = await self._source.ctx.memory_budget.reserve(drawn.nbytes)
        return drawn

    async def _drawn(self, items: AsyncGenerator[Record | list[Record], None]) -> list[Record]:
        random, chosen, seen = self._random("all"), list[tuple[int, Record]](), 0
        async with aclosing(items):
            async for item in items:
                for record in item if isinstance(item, list) else [item]:
                    _reservoir(random, chosen, self._size, seen, (seen, record))
                    seen += 1
                if seen >= self._size * READ_BEYOND:
                    break
        self._note(len(chosen))
        return [record for _, record in sorted(chosen, key=lambda one: one[0])]

    def _note(self, count: int) -> None:
        self._source.ctx.count(SAMPLED, count)


def _reservoir(random: Random, chosen: list[Any], size: int, seen: int, item: Any) -> None:
    """Keep each of the items seen so far with the same probability."""
    if len(chosen) < size:
        chosen.append(item)
    elif (place := random.randrange(seen + 1)) < size:
        chosen[place] = item


@dataclass(slots=True)
class Counted:
    """The input of a sink in a dry run.

    Attributes:
        records: number of records, without those that its receiver would reject.
        shown: the first records, up to the requested number.
    """

    node: str
    component: str
    records: int = 0
    shown: list[Record] = field(default_factory=list)


class _CountingSink(Sink[NoParams]):
    """Counts records without delivering them; rejects those that `check` finds."""

    inline = True

    def __init__(self, counted: Counted, show: int, check: RecordCheck | None) -> None:
        super().__init__(NoParams())
        self._counted, self._show, self._check = counted, show, check

    async def write(self, batch: Batch) -> Receipt:
        counted, records = self._counted, batch.records
        refused = self._check(records) if self._check is not None and records else {}
        if refused:
            records = [record for index, record in enumerate(records) if index not in refused]
        counted.records += len(records)
        if len(counted.shown) < self._show:
            counted.shown += records[: self._show - len(counted.shown)]
        if refused:
            raise BatchError(refused)
        return Receipt()


def with_counting_sinks(plan: Plan, *, show: int = 0) -> tuple[Plan, Sequence[Counted]]:
    """Return the plan with sinks that deliver nothing, including the one for dead letters.

    Records that a sink's receiver would reject, as far as is known here, become dead letters.

    Args:
        show: number of records to keep for each sink.
    """
    counted: list[Counted] = []
    declared = plan.warehouse.models() if plan.warehouse is not None else ()

    def counting(node: PlanNode, check: RecordCheck | None = None) -> PlanNode:
        counts = Counted(node.name, node.spec.name)
        counted.append(counts)
        return node.replaced_by(_CountingSink(counts, show, check))

    def check_of(node: PlanNode) -> RecordCheck | None:
        kind = node.spec.factory
        return kind.record_check(node.params, declared) if isinstance(kind, ChecksRecords) else None

    forward = plan.dead_letters.forward
    changed = replace(
        plan,
        nodes=tuple(
            counting(node, check_of(node)) if node.kind is Kind.SINK else node for node in plan.nodes
        ),
        dead_letters=replace(plan.dead_letters, forward=counting(forward) if forward is not None else None),
        settings=replace(plan.settings, if_running="allow"),
    )
    return changed, counted


def paying_nodes(plan: Plan) -> list[str]:
    """Return the names of the nodes whose answers cost money."""
    return [node.name for node in plan.nodes if node.pays]


class DryRunStore:
    """A state store in memory with the bookmarks and paid answers of a real one.

    Runs, splits, bookmarks and dead letters of the dry run end with it. Paid answers are stored in the real
    store, so that the real run does not pay for them again.
    """

    FROM_REAL = frozenset({"get_bookmarks", "get_journal", "put_journal"})

    def __init__(self, real: StateStore) -> None:
        self._memory = MemoryStateStore()
        self._real: StateStore | None = real

    async def __aenter__(self) -> Self:
        await self._memory.__aenter__()
        if self._real is not None:
            try:
                await self._real.__aenter__()
            except StateMissingError:  # nothing has run yet: there are no bookmarks
                self._real = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._real is not None:
            await self._real.__aexit__(kind, error, trace)
        await self._memory.__aexit__(kind, error, trace)

    def __getattr__(self, name: str) -> Any:
        real = self._real if name in self.FROM_REAL and self._real is not None else self._memory
        return getattr(real, name)
