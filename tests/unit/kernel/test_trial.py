"""Sources that stop early or are sampled, and runs that deliver nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, NoParams, Source
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import ConfigError, FatalError, RecordError
from engine.execution.engine import Engine
from engine.plan.model import Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import BookmarkFilter, DeadLetterFilter, RunStatus
from engine.state.sqlite import SqliteStateStore
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from engine.trial import (
    READ_AGAIN,
    SAMPLED,
    STOPPED_AFTER,
    DryRunStore,
    Reading,
    reading_of,
    with_counting_sinks,
    with_reading,
)
from tests.unit.kernel.runs import Apply, pages, run


def source(splits: int = 3, size: int = 30) -> MemorySource:
    return MemorySource({f"s{at}": pages(size, size=4, first=size * at) for at in range(splits)})


class Numbers(Source[NoParams]):
    """A simple source, of lists and single records."""

    def __init__(self) -> None:
        super().__init__(NoParams())

    async def extract(self) -> AsyncGenerator[int | list[int], None]:
        yield [0, 1, 2, 3, 4]
        for number in range(5, 1000):
            yield number


class Marked(MemorySource):
    """Leaves a bookmark with each page."""

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().read(split, position, ctx)) as batches:
            async for batch in batches:
                batch.bookmarks = [Bookmark("", f"{split.key}/{batch.position}", True)]
                yield batch


async def bookmarks_after(plan: Plan) -> list[str]:
    async with Engine() as engine:
        await engine.run(plan)
        return [one.key for one in await engine.store.list_bookmarks(BookmarkFilter())]


@pytest.mark.slow
async def test_a_limit_stops_a_source_after_exactly_that_many() -> None:
    for limit in (1, 4, 5, 31, 90, 1000):
        sink = MemorySink()
        report = await run(with_reading(linear_plan(source(), sink), Reading(limit=limit)))

        assert report.ok
        assert sink.records == list(range(min(limit, 90)))
        assert (STOPPED_AFTER in report.nodes[0].aggregate) == (limit <= 90)


@pytest.mark.parametrize("limit", [10, 42])
async def test_a_limit_counts_what_earlier_attempts_read(limit: int) -> None:
    sink = FaultySink([None, None, FatalError("full")])
    plan = with_reading(linear_plan(source(), sink), Reading(limit=limit))
    async with Engine() as engine:
        first = await engine.run(plan)
        before = await engine.store.get_run(first.run_id)
        async with engine.start(plan, resume=before) as going:
            report = await going.wait()

    assert (report.status, sink.records) == (RunStatus.COMPLETED, list(range(limit)))
    assert report.nodes[0].aggregate[STOPPED_AFTER] == limit


@pytest.mark.parametrize("limit", [3, 5, 8])
async def test_a_limit_cuts_a_simple_source_within_a_list(limit: int) -> None:
    sink = MemorySink()
    report = await run(with_reading(linear_plan(Numbers(), sink), Reading(limit=limit)))

    assert (report.status, sink.records) == (RunStatus.COMPLETED, list(range(limit)))


async def test_what_a_limit_cuts_off_gets_no_bookmark() -> None:
    plan = with_reading(linear_plan(Marked(pages(20, size=5)), MemorySink()), Reading(limit=12))

    assert await bookmarks_after(plan) == ["all/1", "all/2"]


@pytest.mark.parametrize(("limit", "again"), [(10, 0), (12, 2)])
async def test_a_limit_counts_what_the_next_run_reads_again(limit: int, again: int) -> None:
    plan = linear_plan(Marked(pages(20, size=5)), MemorySink())
    nodes = [replace(node, spec=replace(node.spec, bookmarks=True)) for node in plan.nodes]
    report = await run(with_reading(replace(plan, nodes=tuple(nodes)), Reading(limit=limit)))

    assert report.nodes[0].aggregate[READ_AGAIN] == again


async def test_a_limited_run_says_so_in_its_settings() -> None:
    plan = with_reading(linear_plan(source(), MemorySink()), Reading(limit=2))

    assert reading_of(plan.operational_doc) == Reading(limit=2)
    assert reading_of(linear_plan(source(), MemorySink()).operational_doc) == Reading()


@pytest.mark.slow
async def test_a_sample_is_spread_over_splits_and_repeatable() -> None:
    async def drawn(**options: int) -> list[Any]:
        sink = MemorySink()
        report = await run(with_reading(linear_plan(source(10), sink), Reading(**options)))
        assert report.nodes[0].aggregate[SAMPLED] == len(sink.records)
        return sink.records

    first = await drawn(sample=20)

    assert len(first) == 20
    assert {number // 30 for number in first} == set(range(10))
    assert first == await drawn(sample=20)
    assert first != await drawn(sample=20, seed=1)
    assert first == sorted(set(first))


async def test_a_sample_draws_from_few_of_many_splits() -> None:
    sink = MemorySink()
    await run(with_reading(linear_plan(source(100, size=2), sink), Reading(sample=10)))

    assert len(sink.records) == 10
    assert len({number // 2 for number in sink.records}) == 10


async def test_a_resumed_sample_draws_no_more() -> None:
    sink = FaultySink([None, FatalError("full")])
    plan = with_reading(linear_plan(source(10), sink), Reading(sample=20))
    async with Engine() as engine:
        first = await engine.run(plan)
        before = await engine.store.get_run(first.run_id)
        async with engine.start(plan, resume=before) as going:
            report = await going.wait()

    assert (first.status, report.status) == (RunStatus.FAILED, RunStatus.COMPLETED)
    assert len(set(sink.records)) == 20


async def test_a_sample_of_everything_is_everything() -> None:
    sink = MemorySink()
    await run(with_reading(linear_plan(source(), sink), Reading(sample=500)))

    assert sink.records == list(range(90))


async def test_a_sample_of_a_simple_source_looks_beyond_its_head() -> None:
    sink = MemorySink()
    await run(with_reading(linear_plan(Numbers(), sink), Reading(sample=10)))

    assert len(sink.records) == 10
    assert 10 < max(sink.records) < 210


async def test_a_sample_leaves_no_bookmarks() -> None:
    plan = with_reading(linear_plan(Marked(pages(20)), MemorySink()), Reading(sample=3))

    assert await bookmarks_after(plan) == []


@pytest.mark.parametrize(
    "given", [{"limit": 0}, {"sample": -1}, {"limit": 1, "sample": 1}, {"sample": 10**9}]
)
def test_impossible_trials_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="--"):
        Reading(**given)


async def test_a_dry_run_counts_and_delivers_nothing() -> None:
    def odd(batch: Batch) -> Batch:
        return batch.outcomes([number if number % 2 else RecordError("even") for number in batch.records])

    sink = MemorySink()
    real = MemoryStateStore()
    plan, counted = with_counting_sinks(linear_plan(Marked(pages(20)), Apply(odd), sink), show=2)
    async with Engine(store=DryRunStore(real)) as engine:  # type: ignore[arg-type]
        report = await engine.run(plan)
        letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
        left = (await real.list_runs(), await real.list_bookmarks(BookmarkFilter()))

    assert (sink.records, left) == ([], ([], []))
    assert [(one.node, one.records, one.shown) for one in counted] == [("n2", 10, [1, 3])]
    assert len(letters) == 10


@pytest.mark.slow
async def test_a_dry_run_respects_bookmarks_of_real_runs(tmp_path: Path) -> None:
    await run(linear_plan(Marked(pages(20)), MemorySink()), SqliteStateStore(tmp_path))
    async with DryRunStore(SqliteStateStore(tmp_path)) as store:
        known = await store.get_bookmarks("test", "n0", "", ["all/1", "other"])

    assert known == {"all/1": True}


async def test_a_dry_run_replaces_the_sink_of_dead_letters_too() -> None:
    forward = linear_plan(source(), MemorySink()).nodes[1]
    plan = linear_plan(source(), MemorySink())
    plan = replace(
        plan, dead_letters=replace(plan.dead_letters, forward=replace(forward, name="dead_letters.forward"))
    )

    changed, counted = with_counting_sinks(plan)

    assert [one.node for one in counted] == ["n1", "dead_letters.forward"]
    assert changed.dead_letters.forward is not None
    assert changed.dead_letters.forward.spec is not forward.spec
