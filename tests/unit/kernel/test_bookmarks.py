"""Bookmarks between runs of a source, which never get ahead of settled records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import pytest

from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, NoParams, Receipt, Source
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError, RecordError, StateFullError
from engine.execution.engine import Engine
from engine.execution.ledger import Ledger
from engine.execution.run import Run
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus, SplitRecord
from engine.state.store import StateStore
from engine.testing import FaultySink, MemorySink, linear_plan, plan_of
from tests.unit.kernel.runs import Wait, record_of, run
from tests.unit.kernel.test_stopping_and_resuming import interrupted

pytestmark = pytest.mark.anyio

PAGE = 5


class Feed(Source[NoParams]):
    """A list that grows from run to run; only what is new in it is read, in pages of five."""

    repeatable = True

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(NoParams())
        self.numbers = numbers

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        known = await ctx.bookmarks.get("feed", ["next", "other"])
        yield Split("new", {"start": known.get("next", 0), "stop": len(self.numbers)})

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        stop = int(split.manifest["stop"])
        for first in range(int(position or split.manifest["start"]), stop, PAGE):
            behind = min(first + PAGE, stop)
            batch = Batch(self.numbers[first:behind], KeyRange("feed/", first, behind), position=behind)
            batch.bookmarks = [Bookmark("feed", "next", behind)]
            yield batch


async def bookmark(store: StateStore) -> JsonValue:
    found = await store.get_bookmarks("test", "n0", "feed", ["next"])
    return found.get("next")


async def remembered(store: MemoryStateStore) -> JsonValue:
    async with store:
        return await bookmark(store)


async def test_a_later_run_continues_after_what_was_delivered() -> None:
    store, numbers = MemoryStateStore(), list(range(12))
    first, second, third = MemorySink(), MemorySink(), MemorySink()

    await run(linear_plan(Feed(numbers), first), store)
    numbers += range(12, 19)
    await run(linear_plan(Feed(numbers), second), store)
    report = await run(linear_plan(Feed(numbers), third), store)

    assert (first.records, second.records, third.records) == (list(range(12)), list(range(12, 19)), [])
    assert report.status is RunStatus.COMPLETED


async def test_pipelines_and_nodes_remember_for_themselves() -> None:
    store, numbers = MemoryStateStore(), list(range(7))
    await run(linear_plan(Feed(numbers), MemorySink()), store)
    other, renamed = MemorySink(), MemorySink()

    await run(linear_plan(Feed(numbers), other, pipeline="other"), store)
    await run(plan_of({"renamed": (Feed(numbers), []), "sink": (renamed, ["renamed"])}), store)

    assert other.records == renamed.records == numbers


async def test_dead_and_dropped_records_count_as_dealt_with() -> None:
    store = MemoryStateStore()

    def odd_only(batch: Batch) -> Batch:
        return batch.select([number % 2 for number in batch.records])

    sink = FaultySink(poison=lambda number: number == 11)
    report = await run(linear_plan(Feed(list(range(12))), Wait(odd_only), sink), store)

    assert (report.tally.dropped, report.tally.dead, report.tally.written) == (6, 1, 5)
    assert await remembered(store) == 12


async def test_a_run_that_fails_remembers_what_was_settled_before() -> None:
    store, numbers = MemoryStateStore(), list(range(15))
    report = await run(linear_plan(Feed(numbers), FaultySink([None, FatalError("full")])), store)
    assert report.status is RunStatus.FAILED
    assert await remembered(store) == PAGE

    rest = MemorySink()
    await run(linear_plan(Feed(numbers), rest), store)
    assert rest.records == numbers[PAGE:]


async def test_one_branch_of_two_is_not_enough() -> None:
    store, opened = MemoryStateStore(), anyio.Event()
    quick, slow = MemorySink(), MemorySink(stall=opened)
    plan = plan_of({"n0": (Feed(list(range(5))), []), "quick": (quick, ["n0"]), "slow": (slow, ["n0"])})

    async with Engine(store=store) as engine:
        await interrupted(plan, lambda _: bool(quick.records), Run.cancel, engine)

    assert await remembered(store) is None


class _FirstWaits(MemorySink):
    """Takes two batches at a time; that of the first number waits to be let go."""

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.release = anyio.Event()

    async def write(self, batch: Batch) -> Receipt:
        if 0 in batch.records:
            await self.release.wait()
        return await super().write(batch)


async def test_out_of_order_bookmarks_wait_for_all_before_them() -> None:
    store, numbers = MemoryStateStore(), list(range(15))
    sink = _FirstWaits()
    async with Engine(store=store) as engine:
        stopped = await interrupted(
            linear_plan(Feed(numbers), sink), lambda _: len(sink.records) == 10, Run.cancel, engine
        )
        assert await bookmark(store) is None
        (record,) = await engine.store.list_runs()
        sink.release.set()
        resumed = await engine.run(linear_plan(Feed(numbers), sink), resume=record)

    assert (stopped.status, resumed.status) == (RunStatus.INTERRUPTED, RunStatus.COMPLETED)
    assert sorted(sink.records) == numbers  # what was settled is not delivered again
    assert await remembered(store) == 15


async def test_a_resumed_run_reads_its_manifest_and_not_what_is_new() -> None:
    store, numbers = MemoryStateStore(), list(range(12))
    async with Engine(store=store) as engine:
        await engine.run(linear_plan(Feed(numbers), FaultySink([None, FatalError("full")])))
        (record,) = await engine.store.list_runs()
        numbers += [100]
        sink = MemorySink()
        await engine.run(linear_plan(Feed(numbers), sink), resume=record)

    assert sink.records == list(range(5, 12))
    assert await remembered(store) == 12


@pytest.mark.slow
async def test_older_run_resumed_late_keeps_newer_bookmarks() -> None:
    store, numbers = MemoryStateStore(), list(range(12))
    async with Engine(store=store) as engine:
        await engine.run(linear_plan(Feed(numbers), FaultySink([None, FatalError("full")])))
        (old,) = await engine.store.list_runs()
        numbers += range(12, 20)
        await engine.run(linear_plan(Feed(numbers), MemorySink()))
        await engine.run(linear_plan(Feed(numbers), MemorySink()), resume=old)

    assert await remembered(store) == 20


class _FullOnce(MemoryStateStore):
    """A store that has no space for the first commit."""

    tried = 0

    async def commit(self, *args: object, **options: object) -> None:
        self.tried += 1
        if self.tried == 1:
            raise StateFullError("no space left")
        await super().commit(*args, **options)  # type: ignore[arg-type]


async def test_what_could_not_be_committed_is_committed_with_the_next_try() -> None:
    async with _FullOnce() as store:
        await store.create_run(record_of("r"))
        await store.add_splits("r", "n", [Split("s")], complete=True)
        ledger = Ledger(store, "r")
        tracker = ledger.track("n", SplitRecord("n", Split("s")), replay=False)
        tracker.begin(1, 1, bookmarks=[Bookmark("", "a", 1), Bookmark("", "b", 1)]).written(1)
        with pytest.raises(StateFullError):
            await ledger.commit()
        tracker.begin(1, 2, bookmarks=[Bookmark("", "b", 2)]).written(1)

        await ledger.commit()

        assert await store.get_bookmarks("p", "n", "", ["a", "b"]) == {"a": 1, "b": 2}
        assert tracker.committable_bookmarks == []


async def test_source_decides_if_its_own_dead_records_are_delivered() -> None:
    class Failing(Feed):
        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            batch = Batch([1, 2], KeyRange("feed/", 0, 2), position=2)
            batch.failures = [(1, RecordError("broken"))]
            batch.bookmarks = [Bookmark("feed", "next", 1)]
            yield batch

    store = MemoryStateStore()
    report = await run(linear_plan(Failing([1, 2]), MemorySink()), store)

    assert (report.tally.written, report.tally.dead) == (1, 1)
    assert await remembered(store) == 1
