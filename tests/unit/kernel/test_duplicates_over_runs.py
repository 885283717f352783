"""`deduplicate` across runs: delivered keys are never delivered again, and nothing else is dropped."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.transforms import remembered
from connectors.transforms.deduplicating import Deduplicate, DeduplicateParams
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyList, KeyRange
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.execution.run import Run
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, plan_of
from tests.unit.kernel.runs import QUICK, Apply, run
from tests.unit.kernel.test_stopping_and_resuming import interrupted

pytestmark = pytest.mark.anyio

Pages = list[list[int]]


def plan(pages: Pages, sink: MemorySink, fan_out: int = 0, **params: Any) -> Plan:
    """Records `{"k": number}` in these pages, of each number the first one to the sink."""
    once = Deduplicate(DeduplicateParams.model_validate({"key": "k", "within": "all_runs", **params}))
    copies = Apply(lambda batch: batch.outcomes([[record] * fan_out for record in batch.records]))
    return plan_of(
        {
            "read": (MemorySource([[{"k": number} for number in page] for page in pages]), []),
            "once": (once, ["read"]),
            **({"copies": (copies, ["once"])} if fan_out else {}),
            "load": (sink, ["copies" if fan_out else "once"]),
        },
        options={"load": QUICK},
        dead_letters=DeadLetterSettings(),
    )


def numbers(sink: MemorySink) -> list[int]:
    return [record["k"] for record in sink.records]


async def applied(once: Deduplicate, batch: Batch) -> Batch:
    derived = once.apply(batch)
    assert not isinstance(derived, Batch)
    return await derived


async def test_a_later_run_drops_what_was_delivered() -> None:
    store, first, second = MemoryStateStore(), MemorySink(), MemorySink()

    await run(plan([[1, 2, 1], [2, 3]], first), store)
    report = await run(plan([[3, 4], [1, 4]], second), store)

    assert (numbers(first), numbers(second)) == ([1, 2, 3], [4])
    assert report.tally.drops == {"once: duplicate": 3}


async def test_a_record_that_died_is_not_remembered() -> None:
    store, healthy = MemoryStateStore(), MemorySink()
    poisoned = FaultySink(poison=lambda record: record["k"] == 2)

    report = await run(plan([[1, 2, 12, 20, 3]], poisoned), store)
    await run(plan([[1, 2, 12, 20, 3]], healthy), store)

    assert (report.tally.dead, sorted(numbers(poisoned)), numbers(healthy)) == (1, [1, 3, 12, 20], [2])


async def test_one_dead_copy_of_a_record_is_enough_to_forget_it() -> None:
    store, healthy = MemoryStateStore(), MemorySink()
    died: list[int] = []

    def second_of_two(record: Any) -> bool:
        died.extend([1] if record["k"] == 2 else [])
        return record["k"] == 2 and len(died) == 1

    await run(plan([[1, 2, 3]], FaultySink(poison=second_of_two), fan_out=2), store)
    await run(plan([[1, 2, 3]], healthy), store)

    assert numbers(healthy) == [2]


async def test_what_was_dead_is_delivered_when_it_comes_again_in_the_run() -> None:
    once = Deduplicate(DeduplicateParams(key="k", within="all_runs"))
    tracker = SplitTracker("s")

    def batch(key: str) -> Batch:
        made = Batch([{"k": 1}], KeyList([key]))
        made.origins = [(tracker.begin(1, None), 1)]
        return made

    first, second, third = batch("a"), batch("b"), batch("c")
    async with once:
        kept = [len(await applied(once, first)), len(await applied(once, second))]
        again = len(await applied(once, first))  # a batch is tried again
        first.origins[0][0].dead(1, "load", ["a"])
        kept.append(len(await applied(once, third)))

    assert (kept, again) == ([1, 0, 1], 1)


async def test_a_run_that_fails_remembers_only_what_was_delivered() -> None:
    store, rest = MemoryStateStore(), MemorySink()
    report = await run(plan([[1, 2], [3, 4], [5, 6]], FaultySink([None, FatalError("full")])), store)
    await run(plan([[6, 5], [4, 3], [2, 1]], rest), store)

    assert report.status is RunStatus.FAILED
    assert numbers(rest) == [6, 5, 4, 3]


class _FirstWaits(MemorySink):
    """Takes two batches at a time; that of the first number waits to be let go."""

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.release = anyio.Event()

    async def write(self, batch: Batch) -> Any:
        if {"k": 0} in batch.records:
            await self.release.wait()
        return await super().write(batch)


async def test_what_was_settled_out_of_order_is_remembered_after_a_resume() -> None:
    pages, sink, later = [[0, 1], [2, 3], [4, 5]], _FirstWaits(), MemorySink()
    async with Engine(store=MemoryStateStore()) as engine:
        await interrupted(plan(pages, sink), lambda _: len(sink.records) == 4, Run.cancel, engine)
        (record,) = await engine.store.list_runs()
        sink.release.set()
        await engine.run(plan(pages, sink), resume=record)
        await engine.run(plan(pages, later))

    assert sorted(numbers(sink)) == [0, 1, 2, 3, 4, 5]
    assert numbers(later) == []


class _Stored:
    """Bookmarks that are committed when a test says so."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}


async def test_memory_holds_only_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "HELD", 50)
    once = Deduplicate(DeduplicateParams(key="k", within="all_runs"))
    once.ctx = Context("p", "once", bookmarks=(store := _Stored()))
    tracker, kept, held = SplitTracker("s"), 0, []
    async with once:
        for page in range(200):
            records = [{"k": number} for number in range(page % 100 * 10, page % 100 * 10 + 10)]
            batch = Batch(records, KeyRange("k/", page * 10, page * 10 + 10))
            ack = tracker.begin(10, page)
            batch.origins = [(ack, 10)]
            derived = await applied(once, batch)
            ack.dropped(10 - len(derived), "duplicate")
            ack.written(len(derived))
            store.values |= {one.key: one.value for one in tracker.take_bookmarks()}
            kept += len(derived)
            assert once._remembered is not None
            held.append(len(once._remembered._held))

    assert kept == len(store.values) == 1000
    assert max(held) <= 60


async def test_too_many_keys_on_their_way_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "HELD", 2)
    once = Deduplicate(DeduplicateParams(key="k", within="all_runs", max_keys=3))
    async with once:
        with pytest.raises(FatalError, match="more than 3 distinct keys are not delivered yet: raise"):
            await applied(once, Batch([{"k": n} for n in range(4)], KeyList(list("abcd"))))


FAULTS: list[Any] = [None, FatalError("full"), TransientError("later"), RecordError("refused")]


@pytest.mark.series
@given(
    runs=st.lists(
        st.tuples(
            st.lists(st.lists(st.integers(0, 6), max_size=4), max_size=4),
            st.lists(st.sampled_from([0, 0, 1, 2, 3]), max_size=4),
            st.integers(-1, 6),
            st.booleans(),
        ),
        max_size=4,
    )
)
@example(runs=[([[0, 1], [1, 2]], [0, 1], 1, True), ([[2, 1, 0]], [2], -1, False)])
async def test_after_any_failure_nothing_is_lost_or_duplicated(
    runs: list[tuple[Pages, list[int], int, bool]],
) -> None:
    delivered: list[int] = []
    committed: set[int] = set()
    async with Engine(store=MemoryStateStore()) as engine:
        for pages, faults, poison, resume in [*runs, ([list(range(7))], [], -1, False)]:
            sink = FaultySink([FAULTS[fault] for fault in faults], poison={"k": poison}.__eq__)
            report = await engine.run(plan(pages, sink))
            assert report.tally.balanced
            if report.status is RunStatus.COMPLETED:
                assert len(set(numbers(sink))) == len(sink.records)
            elif resume:
                record = (await engine.store.list_runs())[-1]
                report = await engine.run(plan(pages, sink), resume=record)
            assert committed.isdisjoint(numbers(sink))
            delivered += numbers(sink)
            if report.status is RunStatus.COMPLETED:
                committed.update(numbers(sink))

    assert set(delivered) == set(range(7))
