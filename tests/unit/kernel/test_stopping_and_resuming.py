"""Runs that are drained, cancelled or crash, and the attempts that resume them."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable

import anyio
import pytest

from engine.config.model import NodeOptions, RetryOptions
from engine.contract.acks import Tally
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, NoParams, Receipt, Source
from engine.contract.split import Split
from engine.contract.types import Record
from engine.errors import FatalError, StoppingError, TransientError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.flow.stats import Waiting
from engine.plan.model import Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import Progress, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan
from tests.unit.kernel.runs import Apply, Wait, pages

pytestmark = pytest.mark.anyio

PATIENT = NodeOptions(retry=RetryOptions(attempts=1, base=5.0, cap=5.0))


class Closing(Source[NoParams]):
    """Endless numbers; notes when its generator has been closed."""

    repeatable = True

    def __init__(self, waits: bool = False) -> None:
        super().__init__(NoParams())
        self.closed = 0
        self.waits = waits

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        number = 0
        try:
            while True:
                await (anyio.sleep_forever() if self.waits and number == 5 else anyio.lowlevel.checkpoint())
                yield number
                number += 1
        finally:
            self.closed += 1


async def interrupted(
    plan: Plan, when: Callable[[Run], bool], act: Callable[[Run], None], engine: Engine, **options: object
) -> RunReport:
    """Run a plan and do something to it once a condition is true."""
    async with engine.start(plan, **options) as going:  # type: ignore[arg-type]

        async def watch() -> None:
            while not when(going):
                await anyio.lowlevel.checkpoint()
            act(going)

        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                return await going.wait()
    raise AssertionError


async def test_a_drained_run_delivers_what_it_has_read_and_no_more() -> None:
    source, sink = Closing(), MemorySink()
    async with Engine() as engine:
        report = await interrupted(
            linear_plan(source, Wait(lambda batch: batch), sink),
            lambda run: len(sink.records) > 50,
            Run.drain,
            engine,
        )

    assert report.status is RunStatus.INTERRUPTED
    assert report.tally.read == report.tally.written == len(sink.records)
    assert sink.records == list(range(len(sink.records)))
    assert source.closed == 1


async def test_a_source_that_waits_for_the_outside_is_given_up_by_a_drain() -> None:
    source, sink = Closing(waits=True), MemorySink()
    async with Engine() as engine:
        report = await interrupted(
            linear_plan(source, sink), lambda run: len(sink.records) == 5, Run.drain, engine
        )

    assert (report.status, report.tally.written, source.closed) == (RunStatus.INTERRUPTED, 5, 1)


async def test_a_source_that_waits_to_be_tried_again_is_given_up_by_a_drain() -> None:
    def fail(split: str, page: int) -> None:
        raise TransientError("down")

    async with Engine(clock=ScriptedClock()) as engine:
        report = await interrupted(
            linear_plan(MemorySource(pages(10), fail=fail), MemorySink()),
            lambda run: any(node.retries for node in run.snapshot().nodes),
            Run.drain,
            engine,
        )

    assert (report.status, report.tally.read) == (RunStatus.INTERRUPTED, 0)


async def test_draining_a_run_that_has_read_everything_completes_it() -> None:
    stall, source = anyio.Event(), MemorySource(pages(10))
    sink = MemorySink(stall=stall)

    def act(run: Run) -> None:
        run.drain()
        stall.set()

    async with Engine() as engine:
        report = await interrupted(linear_plan(source, sink), lambda run: _unread(run) == 0, act, engine)

    assert (report.status, report.tally.written) == (RunStatus.COMPLETED, 10)


def _unread(run: Run) -> int:
    sources = run._runner._sources
    return sum(not one.finished for one in sources) if sources else -1


@pytest.mark.parametrize("early", [True, False])
async def test_a_drained_run_is_finished_by_the_next_attempt(early: bool) -> None:
    store, first, second = MemoryStateStore(), MemorySink(), MemorySink()
    source = MemorySource({"a": pages(500), "b": pages(500)})
    async with Engine(store=store) as engine:
        report = await interrupted(
            linear_plan(source, first), lambda run: early or len(first.records) > 100, Run.drain, engine
        )
        assert report.status is RunStatus.INTERRUPTED
        final = await engine.run(linear_plan(source, second), resume=await store.get_run(report.run_id))

    assert final.ok
    assert (final.attempt, final.tally.read, final.tally.written) == (2, 1000, 1000)
    wanted = [f"{split}/{n}" for split, offset in (("a", 0), ("b", 500)) for n in range(offset, offset + 500)]
    assert sorted(first.keys + second.keys) == sorted(wanted)
    assert set(first.replays + second.replays) == {False}, "what was delivered is known to the last record"


@pytest.mark.slow
@pytest.mark.parametrize("sqlite", [True, False])
async def test_after_a_crash_the_next_attempt_delivers_exactly_the_rest(
    sqlite: bool, tmp_path: object
) -> None:
    """The process is gone without a last word: the task is cancelled and nothing more is committed."""
    store = MemoryStateStore()
    options: dict[str, object] = {"state_dir": tmp_path} if sqlite else {"store": store}
    first, second = MemorySink(limits=BatchLimits(records=7)), MemorySink()
    source = MemorySource({"a": pages(300), "b": pages(300)})
    async with Engine(**options) as engine:  # type: ignore[arg-type]
        report = await interrupted(
            linear_plan(source, Apply(_thirds), first),
            lambda run: len(first.records) > 60,
            Run.cancel,
            engine,
        )
        assert report.status is RunStatus.INTERRUPTED
        before = await engine.store.tally(report.run_id)
        assert before.balanced
    async with Engine(**options) as engine:  # type: ignore[arg-type]
        final = await engine.run(
            linear_plan(source, Apply(_thirds), second), resume=await engine.store.get_run(report.run_id)
        )

    ranges = {"a": range(300), "b": range(300, 600)}
    wanted = {f"{split}/{n}" for split, numbers in ranges.items() for n in numbers if n % 3}
    assert final.ok
    assert final.tally.balanced
    assert (final.tally.read, final.tally.written, final.tally.dropped) == (600, 400, 200)
    assert set(first.keys) | set(second.keys) == wanted
    assert len(second.keys) == len(set(second.keys)) == 400 - before.written
    assert set(second.replays) <= {True}


async def test_only_what_may_have_been_in_flight_is_a_replay() -> None:
    """The process is killed with its last commit at record 4,000: the ledger permits a quarter more."""
    store, first, second = MemoryStateStore(), MemorySink(), MemorySink()
    source = MemorySource({"a": [list(range(n, n + 100)) for n in range(0, 9000, 100)], "b": pages(500)})
    async with Engine(store=store) as engine:
        plan = linear_plan(source, first)
        run = await engine.begin(plan)
        await store.add_splits(
            run.run_id, "n0", [one async for one in source.splits(source.ctx)], complete=True
        )
        done = Progress("n0", "a", 40, False, Tally(read=4000, written=4000), read_limit=5000)
        await store.commit(run.run_id, [done])
        report = await engine.run(linear_plan(source, second), resume=await store.get_run(run.run_id))

    assert report.tally.written == 9500
    marked = [
        replay for replay, size in zip(second.replays, second.batches, strict=True) for _ in range(size)
    ]
    assert marked == [True] * 1000 + [False] * 4500


async def test_nothing_is_delivered_before_the_ledger_permits_it() -> None:
    limits: list[tuple[int, int]] = []

    class Asking(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            ((record,), _) = await store.splits(self.ctx.run_id, "n0")
            limits.append((len(self.records) + len(batch), record.read_limit or 0))
            return await super().write(batch)

    store, sink = MemoryStateStore(), Asking()
    async with Engine(store=store) as engine:
        source = MemorySource([list(range(n, n + 500)) for n in range(0, 5000, 500)])
        assert (await engine.run(linear_plan(source, sink))).ok
        assert (await engine.run(linear_plan(MemorySource(pages(10), fresh=False), MemorySink()))).ok

    assert all(delivered <= limit <= delivered * 1.25 + 1500 for delivered, limit in limits), limits


async def test_splits_of_an_older_version_are_replays() -> None:
    store, source, sink = MemoryStateStore(), MemorySource(pages(30)), MemorySink()
    async with Engine(store=store) as engine:
        plan = linear_plan(source, sink)
        run = await engine.begin(plan)
        await store.add_splits(run.run_id, "n0", [Split("all")], complete=True)
        await store.commit(run.run_id, [Progress("n0", "all", None, False, Tally())])
        assert (await engine.run(plan, resume=run)).ok
    assert set(sink.replays) == {True}


def _thirds(batch: Batch) -> Batch:
    return batch.select([record % 3 for record in batch.records])


@pytest.mark.slow
async def test_a_cancelled_run_leaves_nothing_behind() -> None:
    closed: list[str] = []

    class Watched(MemorySink):
        async def __aexit__(self, *_: object) -> None:
            closed.append("sink")

    source = Closing()
    async with Engine() as engine:
        report = await interrupted(
            linear_plan(source, Wait(lambda batch: batch), Watched(stall=anyio.Event())),
            lambda run: run.snapshot().tally.read > 5,
            Run.cancel,
            engine,
        )
        assert engine._process.in_use == 0

    gc.collect()
    assert report.status is RunStatus.INTERRUPTED
    assert (source.closed, closed) == (1, ["sink"])


async def test_cancelling_from_outside_is_noted_in_the_store() -> None:
    store, source = MemoryStateStore(), Closing()

    class Leaving(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            scope.cancel()
            return await super().write(batch)

    async with Engine(store=store) as engine:
        with anyio.CancelScope() as scope:
            await engine.run(linear_plan(source, Leaving()))
        (record,) = await store.list_runs()

    assert scope.cancelled_caught
    assert (record.status, source.closed) == (RunStatus.INTERRUPTED, 1)


async def test_cancelling_before_the_start_reads_nothing() -> None:
    source = Closing()
    async with Engine() as engine:
        async with engine.start(linear_plan(source, MemorySink())) as going:
            going.cancel()
            report = await going.wait()

    assert (report.status, report.tally.read) == (RunStatus.INTERRUPTED, 0)


async def test_a_failed_run_is_taken_up_where_it_was() -> None:
    store, broken, mended = MemoryStateStore(), FaultySink([None, None, FatalError("disk")]), MemorySink()
    source = MemorySource(pages(50))
    async with Engine(store=store) as engine:
        failed = await engine.run(linear_plan(source, broken))
        final = await engine.run(linear_plan(source, mended), resume=await store.get_run(failed.run_id))

    assert (failed.status, failed.tally.written) == (RunStatus.FAILED, 20)
    assert mended.records == list(range(20, 50))
    assert final.tally.written == 50


class Once(Source[NoParams]):
    """Numbers that come again from the beginning, under other keys, when they are read again."""

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        for number in range(10):
            yield number


class Named(Once):
    """The same under names of their own."""

    def key(self, record: Record, ordinal: int) -> str | None:
        return f"number {record}"


async def test_unkeyed_unrepeatable_source_is_not_read_twice() -> None:
    sink = FaultySink([FatalError("the disk is gone")])
    plan = linear_plan(Once(NoParams()), sink)
    async with Engine() as engine:
        first = await engine.run(plan)
        second = await engine.run(plan, resume=await engine.store.get_run(first.run_id))
    assert (first.status, second.status) == (RunStatus.FAILED, RunStatus.FAILED)
    assert second.error == (
        "node 'n0' failed: it can be read only once, so its run cannot be resumed: start a new one"
    )
    assert sink.records == []


async def test_a_source_that_names_its_records_can_be_read_a_second_time() -> None:
    sink = FaultySink([FatalError("the disk is gone")])
    plan = linear_plan(Named(NoParams()), sink)
    async with Engine() as engine:
        first = await engine.run(plan)
        second = await engine.run(plan, resume=await engine.store.get_run(first.run_id))
    assert (second.status, second.tally.written) == (RunStatus.COMPLETED, 10)
    assert sink.keys == [f"number {number}" for number in range(10)]


async def test_unread_source_may_start_in_a_resumed_run() -> None:
    class Unopened(MemorySink):
        async def __aenter__(self) -> Unopened:
            raise FatalError("not today")

    sink = MemorySink()
    async with Engine() as engine:
        first = await engine.run(linear_plan(Once(NoParams()), Unopened()))
        resume = await engine.store.get_run(first.run_id)
        second = await engine.run(linear_plan(Once(NoParams()), sink), resume=resume)
    assert (first.status, second.status) == (RunStatus.FAILED, RunStatus.COMPLETED)
    assert sink.records == list(range(10))


async def test_draining_in_an_outage_gives_up_what_cannot_be_delivered() -> None:
    class Down(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            raise TransientError("no service listens")

    store, sink = MemoryStateStore(), MemorySink()
    async with Engine(store=store) as engine:
        report = await interrupted(
            linear_plan(MemorySource(pages(30)), Down(), options={"n1": PATIENT}),
            lambda run: any(node.waiting is Waiting.OUTAGE for node in run.snapshot().nodes),
            Run.drain,
            engine,
        )
        assert (report.status, report.tally.read, report.dead_letters) == (RunStatus.INTERRUPTED, 0, 0)

        again = await engine.run(
            linear_plan(MemorySource(pages(30)), sink), resume=await store.get_run(report.run_id)
        )

    assert (again.status, sink.records) == (RunStatus.COMPLETED, list(range(30)))


async def test_a_drain_does_not_wait_endlessly_for_a_sink_that_hangs() -> None:
    async with Engine(drain_limit=0.05) as engine:
        report = await interrupted(
            linear_plan(MemorySource(pages(30)), MemorySink(stall=anyio.Event())),
            lambda run: run.snapshot().tally.read > 0,
            Run.drain,
            engine,
        )

    assert (report.status, report.tally.read) == (RunStatus.INTERRUPTED, 0)


class _HoldingTheFirst(MemorySink):
    """Never gets the first page through; takes all others."""

    async def write(self, batch: Batch) -> Receipt:
        if 0 in batch.records:
            await anyio.sleep_forever()
        return await super().write(batch)


async def test_resume_does_not_repeat_out_of_order_deliveries() -> None:
    store = MemoryStateStore()
    stuck = _HoldingTheFirst(workers=2)
    plan = linear_plan(MemorySource(pages(60)), stuck)

    async with Engine(store=store) as engine:
        ended = await interrupted(plan, lambda run: len(stuck.records) == 50, Run.cancel, engine)
    async with store:
        ((record,), _) = await store.splits(ended.run_id, plan.nodes[0].name)
        assert (record.position, len(record.acked), ended.tally.read) == (None, 5, 0)

    whole = MemorySink(workers=2)
    async with Engine(store=store) as engine:
        run = await engine.store.get_run(ended.run_id)
        report = await engine.run(linear_plan(MemorySource(pages(60)), whole), resume=run)

    assert whole.records == list(range(10))
    assert report.ok
    assert (report.tally.read, report.tally.written) == (60, 60)


@pytest.mark.parametrize("whole_batch", [False, True], ids=["one record", "whole batch"])
async def test_what_takes_too_long_for_a_stop_is_left_to_a_resume(whole_batch: bool) -> None:
    source, sink, store = MemorySource({"a": pages(40)}), MemorySink(), MemoryStateStore()
    stopping = False

    def slow(batch: Batch) -> Batch:
        if not stopping or 13 not in batch.records:
            return batch
        error = StoppingError("it takes too long")
        if whole_batch:
            raise error
        return batch.outcomes([error if record == 13 else record for record in batch.records])

    def stop_and_slow(batch: Batch) -> Batch:
        nonlocal stopping
        if 13 in batch.records:
            stopping = True
            run.drain()
        return slow(batch)

    async with Engine(store=store) as engine:
        async with engine.start(linear_plan(source, Wait(stop_and_slow), sink)) as run:
            with anyio.fail_after(300):
                first = await run.wait()
        assert (first.status, first.failure) == (RunStatus.INTERRUPTED, None)
        assert 13 not in sink.records
        assert (10 in sink.records) is not whole_batch

        stopping = False
        record = await store.get_run(first.run_id)
        second = await engine.run(linear_plan(source, Wait(slow), sink), resume=record)

    assert second.status is RunStatus.COMPLETED
    assert (second.tally.written, second.tally.dead) == (40, 0)
    assert set(sink.records) == set(range(40))
