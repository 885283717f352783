"""Runs divided into chunks, processed by several engines on one store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from engine.config.model import Settings
from engine.contract.batch import Batch
from engine.contract.chunk import Chunk
from engine.contract.component import Context, Receipt
from engine.contract.split import Split
from engine.errors import (
    DeadLetterBudgetError,
    FatalError,
    LeaseHeldError,
    LeaseLostError,
    OutageError,
    TransientError,
)
from engine.execution.engine import Engine
from engine.execution.ledger import PAGE_SPLITS
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import RunRecord, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan, plan_of
from tests.unit.kernel.runs import pages
from tests.unit.kernel.test_stopping_and_resuming import interrupted

pytestmark = pytest.mark.anyio

SPLITS = {f"s{number}": pages(20, first=20 * number) for number in range(4)}


async def begun(engine: Engine, plan: Plan, source: MemorySource) -> RunRecord:
    """A run whose splits are in the store."""
    record = await engine.begin(plan)
    splits = [split async for split in source.splits(source.ctx)]
    await engine.store.add_splits(record.run_id, plan.nodes[0].name, splits, complete=True)
    return record


async def done(engine: Engine, plan: Plan, record: RunRecord, chunk: Chunk) -> RunReport:
    async with engine.start(plan, resume=record, chunk=chunk) as going:
        return await going.wait()


FIRST, SECOND = Chunk("n0", 0, 2), Chunk("n0", 2, 2)


async def test_chunks_read_their_own_splits_and_cover_the_run() -> None:
    sink, source = MemorySink(), MemorySource(SPLITS)
    plan = linear_plan(source, sink)
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        second = await done(engine, plan, record, SECOND)
        assert sink.records == list(range(40, 80))
        first = await done(engine, plan, record, FIRST)

        assert sorted(sink.records) == list(range(80))
        assert (first.tally.written, second.tally.written) == (40, 40)
        assert (await engine.store.tally(record.run_id)).written == 80
        # whoever divided the run says how it stands
        assert (await engine.store.get_run(record.run_id)).status is RunStatus.RUNNING
    assert not any(sink.replays)


async def test_a_chunk_that_is_done_is_not_read_again() -> None:
    sink, source = MemorySink(), MemorySource(SPLITS)
    plan = linear_plan(source, sink)
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        await done(engine, plan, record, FIRST)
        again = await done(engine, plan, record, FIRST)

    assert len(sink.records) == again.tally.written == 40


async def test_failed_chunk_resumes_with_a_higher_epoch() -> None:
    epochs: list[tuple[int, str]] = []

    class Noting(MemorySink):
        async def __aenter__(self) -> Noting:
            epochs.append((self.ctx.epoch, self.ctx.chunk))
            return self

    source, sink = MemorySource(SPLITS), Noting()
    async with Engine() as engine:
        broken = linear_plan(source, FaultySink([None, FatalError("disk")]))
        record = await begun(engine, broken, source)
        failed = await done(engine, broken, record, FIRST)
        plan = linear_plan(source, sink)
        await done(engine, plan, record, SECOND)
        report = await done(engine, plan, record, FIRST)

    assert (failed.status, failed.tally.written) == (RunStatus.FAILED, 10)
    assert report.tally.written == 40
    assert epochs == [(2, "n0/2+2"), (3, "n0/0+2")]
    assert sink.replays[:5] == [False] * 4 + [True], "only what the failed attempt may have delivered"
    assert len(sink.replays) == 7


async def test_only_holders_of_the_same_chunk_exclude_each_other() -> None:
    stall, source = anyio.Event(), MemorySource(SPLITS)
    plan = linear_plan(source, MemorySink(stall=stall))
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        async with engine.start(plan, resume=record, chunk=FIRST):
            with pytest.raises(LeaseHeldError):
                async with engine.start(plan, resume=record, chunk=FIRST):
                    pass
            with pytest.raises(LeaseHeldError):
                async with engine.start(plan, resume=record):
                    pass
            async with engine.start(plan, resume=record, chunk=SECOND) as other:
                stall.set()
                assert (await other.wait()).ok


async def test_one_whose_chunk_was_taken_over_commits_nothing_any_more() -> None:
    class TakenOver(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            if not self.records:
                await store.acquire_lease(
                    record.run_id, "elsewhere:1:x", now="9999", until="9999", chunk=FIRST.name
                )
            return await super().write(batch)

    store, source = MemoryStateStore(), MemorySource(SPLITS)
    plan = linear_plan(source, TakenOver())
    async with Engine(store=store) as engine:
        record = await begun(engine, plan, source)
        report = await done(engine, plan, record, FIRST)
        assert isinstance(report.failure, LeaseLostError)
        assert (await store.tally(record.run_id)).read == 0


async def test_a_drained_chunk_says_so_and_the_rest_of_it_is_done_later() -> None:
    source, sink = MemorySource(SPLITS), MemorySink()
    plan = linear_plan(source, sink)
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        ended = await interrupted(
            plan, lambda run: len(sink.records) > 0, Run.drain, engine, resume=record, chunk=FIRST
        )
        assert ended.status in (RunStatus.INTERRUPTED, RunStatus.COMPLETED)
        report = await done(engine, plan, record, FIRST)

    assert (report.status, report.tally.written) == (RunStatus.COMPLETED, 40)
    assert sorted(sink.records) == list(range(40))


async def test_the_budget_of_dead_letters_counts_those_of_other_chunks() -> None:
    sink = FaultySink(poison=lambda number: number % 20 == 0)
    source = MemorySource(SPLITS)
    plan = linear_plan(source, sink, dead_letters=DeadLetterSettings(max_count=3))
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        first = await done(engine, plan, record, FIRST)
        second = await done(engine, plan, record, SECOND)

    assert (first.ok, first.tally.dead) == (True, 2)
    assert isinstance(second.failure, DeadLetterBudgetError)
    assert str(second.failure).startswith("4 dead letters, 3 are allowed")


async def test_a_chunk_of_one_source_reads_nothing_of_another() -> None:
    one, two, sink = MemorySource(SPLITS), MemorySource({"t": pages(10, first=1000)}), MemorySink()
    plan = plan_of({"n0": (one, []), "other": (two, []), "sink": (sink, ["n0", "other"])})
    async with Engine() as engine:
        record = await begun(engine, plan, one)
        report = await done(engine, plan, record, FIRST)

    assert sorted(sink.records) == list(range(40))
    assert report.ok


async def test_a_run_started_in_chunks_can_be_finished_as_a_whole() -> None:
    source, sink = MemorySource(SPLITS), MemorySink()
    plan = linear_plan(source, sink)
    async with Engine() as engine:
        record = await begun(engine, plan, source)
        await done(engine, plan, record, SECOND)
        report = await engine.run(plan, resume=record)

    assert sorted(sink.records) == list(range(80))
    assert (report.status, report.tally.written) == (RunStatus.COMPLETED, 80)


class _Breaking(MemorySource):
    """Breaks off its first listing after a page; what it has is divided otherwise the second time."""

    listings = 0

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        self.listings += 1
        for number in range(450):
            if self.listings == 1 and number == 300:
                raise TransientError("the listing broke off")
            yield Split(f"{self.listings}/{number}", {})


async def test_a_listing_that_broke_off_leaves_nothing_behind() -> None:
    source = _Breaking(pages(10))
    plan = linear_plan(source, MemorySink())
    pages_seen: list[int] = []
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        record = await engine.begin(plan)
        async with engine.start(plan, resume=record, chunk=Chunk("n0", 0, 0)) as listing:
            assert await listing.list_splits("n0", on_page=pages_seen.append) == 450
            assert await listing.list_splits("n0") == 450
        splits, complete = await engine.store.splits(record.run_id, "n0")

    assert complete
    assert [one.split.key for one in splits] == [f"2/{number}" for number in range(450)]
    assert pages_seen == [*range(PAGE_SPLITS, 301, PAGE_SPLITS), *range(PAGE_SPLITS, 450, PAGE_SPLITS)]
    assert source.listings == 2, "a complete listing is not made again"


class _Away(MemorySource):
    """Cannot be listed."""

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        raise TransientError("no answer")
        yield


async def test_listing_waits_for_its_source_up_to_the_outage_limit() -> None:
    plan = linear_plan(_Away({}), MemorySink(), settings=Settings(outage_limit=600.0))
    clock = ScriptedClock(jump=True)
    async with Engine(clock=clock) as engine:
        record = await engine.begin(plan)
        async with engine.start(plan, resume=record, chunk=Chunk("n0", 0, 0)) as listing:
            with pytest.raises(OutageError, match=r"'n0' could not list its input for \d+ s.*no answer"):
                await listing.list_splits("n0")

    assert sum(clock.slept) >= 600.0


class _Slow(MemorySource):
    """Is away for a moment in its first two listings, the second time an hour later and a page further."""

    listings = 0

    def __init__(self, clock: ScriptedClock, *, further: bool) -> None:
        super().__init__(pages(3 * PAGE_SPLITS))
        self._clock = clock
        self._further = further

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        self.listings += 1
        away_at = {1: PAGE_SPLITS, 2: 2 * PAGE_SPLITS if self._further else PAGE_SPLITS}
        for number in range(3 * PAGE_SPLITS):
            if number == away_at.get(self.listings):
                if self.listings == 2:
                    self._clock.advance(3600.0)
                raise TransientError("busy")
            yield Split(str(number), {"pages": 0})


@pytest.mark.parametrize("further", [True, False])
async def test_listing_outage_ends_when_the_listing_progresses(further: bool) -> None:
    clock = ScriptedClock(jump=True)
    source = _Slow(clock, further=further)
    plan = linear_plan(source, MemorySink(), settings=Settings(outage_limit=600.0))
    async with Engine(clock=clock) as engine:
        record = await engine.begin(plan)
        async with engine.start(plan, resume=record, chunk=Chunk("n0", 0, 0)) as listing:
            if further:
                assert await listing.list_splits("n0") == 3 * PAGE_SPLITS
            else:
                with pytest.raises(OutageError):
                    await listing.list_splits("n0")
    assert source.listings == (3 if further else 2)
