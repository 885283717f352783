"""A slow, unavailable or busy node stops the source, loses nothing, and is named in the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import perf_counter

import anyio
import anyio.lowlevel
import pytest

from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import Kind, Receipt
from engine.errors import TransientError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.flow.stats import NodeStats, RunSnapshot, Waiting
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan, plan_of
from tests.unit.kernel.runs import Wait, pages

pytestmark = pytest.mark.anyio

COUNT = 2000
ONE_TRY = NodeOptions(retry=RetryOptions(attempts=1, base=1.0, cap=1.0))


class Busy(MemorySink):
    """Takes nothing while `closed`, and says when to come back."""

    def __init__(self, closed: Callable[[], bool], retry_after: float | None = 5.0) -> None:
        super().__init__(workers=2)
        self.closed = closed
        self.retry_after = retry_after

    async def write(self, batch: Batch) -> Receipt:
        await anyio.lowlevel.checkpoint()
        if self.closed():
            raise TransientError("answered 429", retry_after=self.retry_after, throttled=True)
        return await super().write(batch)


async def held_up(
    plan: Plan, expected: str, then: Callable[[], object], **options: object
) -> tuple[RunReport, RunSnapshot]:
    """A run that comes to a stop: its report, and how it stood when nothing was read any more.

    Args:
        expected: what the snapshot has to name.
        then: what lets it go on.
    """
    seen: list[RunSnapshot] = []
    async with Engine(**options) as engine:  # type: ignore[arg-type]
        async with engine.start(plan) as run:

            async def watch() -> None:
                await stopped(run)
                seen.append(run.snapshot())
                then()

            async def stopped(run: Run) -> None:
                still, before = 0, -1
                while still < 200:
                    snapshot = run.snapshot()
                    same = snapshot.waits_for == expected and snapshot.tally.read == before
                    still, before = still + 1 if same else 0, snapshot.tally.read
                    await anyio.lowlevel.checkpoint()

            with anyio.fail_after(300):
                async with anyio.create_task_group() as group:
                    group.start_soon(watch)
                    report = await run.wait()
    return report, seen[0]


async def test_a_slow_sink_stops_the_reading_and_is_named() -> None:
    gate = anyio.Event()
    sink = MemorySink(stall=gate)
    plan = linear_plan(MemorySource(pages(COUNT)), Wait(lambda batch: batch), sink)

    report, stood = await held_up(plan, "n2", gate.set)

    assert stood.tally.read < COUNT / 2
    assert (report.tally.written, report.tally.dead) == (COUNT, 0)


@pytest.mark.parametrize("is_sink", [True, False])
async def test_a_call_that_never_ends_counts_as_busy(is_sink: bool) -> None:
    gate = anyio.Event()

    class Stuck(Wait):
        async def apply(self, batch: Batch) -> Batch:  # type: ignore[override]
            await gate.wait()
            return await super().apply(batch)

    nodes = [MemorySink(stall=gate)] if is_sink else [Stuck(lambda batch: batch), MemorySink()]
    plan = linear_plan(MemorySource(pages(5)), *nodes)

    report, stood = await held_up(plan, "", gate.set)

    assert stood.nodes[1].busy_seconds > 0
    assert report.tally.written == 5


def test_a_call_of_each_worker_counts_as_busy() -> None:
    stats = NodeStats("load", Kind.SINK, "memory", workers=2)
    now = perf_counter()
    stats.begin_call(now - 70)
    stats.begin_call(now - 20)
    stats.end_call(now - 10)

    assert stats.snapshot(100.0).busy_seconds == pytest.approx(80, abs=5)


@pytest.mark.slow
async def test_the_branch_that_has_no_room_is_named_and_not_its_neighbour() -> None:
    gate = anyio.Event()
    plan = plan_of(
        {
            "source": (MemorySource(pages(COUNT)), []),
            "quick": (MemorySink(), ["source"]),
            "slow": (MemorySink(stall=gate), ["source"]),
            "other": (MemorySink(), ["source"]),
        }
    )

    report, stood = await held_up(plan, "slow", gate.set)

    assert stood.tally.read < COUNT / 2
    assert report.tally.written == 3 * COUNT


@pytest.mark.slow
async def test_of_several_stages_that_wait_for_each_other_the_last_is_named() -> None:
    gate = anyio.Event()
    stages = [Wait(lambda batch: batch) for _ in range(3)]
    plan = linear_plan(MemorySource(pages(COUNT)), *stages, MemorySink(stall=gate))

    report, _ = await held_up(plan, "n4", gate.set)

    assert report.tally.written == COUNT


@pytest.mark.slow
async def test_who_holds_the_memory_is_named() -> None:
    gate = anyio.Event()
    plan = linear_plan(
        MemorySource(pages(COUNT), nbytes=100_000),
        Wait(lambda batch: batch),
        MemorySink(stall=gate),
        settings=Settings(memory_bytes=300_000),
    )

    report, stood = await held_up(plan, "memory, held by n2", gate.set)

    assert stood.bytes_in_flight <= 300_000
    assert stood.tally.read <= 40
    assert report.tally.written == COUNT


@pytest.mark.slow
async def test_throttled_model_pauses_reading_and_is_named() -> None:
    clock = ScriptedClock()

    def ask(batch: Batch) -> Batch:
        if clock.monotonic() < 60:
            raise TransientError("the model answered 429", retry_after=60.0)
        return batch

    sink = MemorySink()
    plan = linear_plan(MemorySource(pages(COUNT)), Wait(ask), sink)

    report, stood = await held_up(plan, "n1 (the model answered 429)", lambda: clock.advance(61), clock=clock)

    assert stood.tally.read < COUNT / 2
    assert (report.ok, report.tally.dead, sink.records) == (True, 0, list(range(COUNT)))


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", [5.0, None])
async def test_throttled_sink_pauses_reading_and_is_named(
    retry_after: float | None,
) -> None:
    clock = ScriptedClock()
    sink = Busy(lambda: clock.monotonic() < 60, retry_after)

    async def pass_time() -> None:
        while len(sink.records) < COUNT:
            clock.advance(1)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        report, stood = await held_up(
            linear_plan(MemorySource(pages(COUNT)), sink),
            "n1 (answered 429)",
            lambda: group.start_soon(pass_time),
            clock=clock,
        )

    assert stood.tally.read < COUNT / 2
    assert (report.ok, report.tally.dead, report.tally.written) == (True, 0, COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.9])
async def test_throttling_never_kills_a_record(share: float) -> None:
    """Others get through meanwhile, so it would look as if the fault were in the records."""
    random = Random(7)
    sink = Busy(lambda: random.random() < share, 1.0)
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(linear_plan(MemorySource(pages(COUNT)), sink, options={"n1": ONE_TRY}))

    assert (report.ok, report.tally.dead, report.tally.written) == (True, 0, COUNT)


@pytest.mark.slow
async def test_record_always_throttled_is_found_after_the_outage_limit() -> None:
    class Particular(FaultySink):
        async def write(self, batch: Batch) -> Receipt:
            await anyio.lowlevel.checkpoint()
            if 7 in batch.records:
                raise TransientError("too many tokens", retry_after=2.0)
            return await super().write(batch)

    plan = linear_plan(
        MemorySource(pages(3000)),
        Particular(workers=2),
        settings=Settings(outage_limit=30.0),
        options={"n1": ONE_TRY},
    )
    clock = ScriptedClock(jump=True)
    async with Engine(clock=clock) as engine:
        report = await engine.run(plan)

    assert (report.ok, report.tally.dead, report.tally.written) == (True, 1, 2999)
    assert clock.monotonic() >= 30


async def test_a_side_that_stays_busy_is_an_outage_that_kills_nothing() -> None:
    store, clock = MemoryStateStore(), ScriptedClock(jump=True)
    async with Engine(store=store, clock=clock) as engine:
        settings = Settings(outage_limit=30.0)
        plan = linear_plan(MemorySource(pages(50)), Busy(lambda: True), settings=settings)
        report = await engine.run(plan)
        assert (report.status, report.tally.dead, report.dead_letters) == (RunStatus.OUTAGE, 0, 0)
        sink = MemorySink()
        again = await engine.run(
            linear_plan(MemorySource(pages(50)), sink), resume=await store.get_run(report.run_id)
        )

    assert (again.ok, sorted(sink.records)) == (True, list(range(50)))


class TestADeadBranch:
    def plan(self, dead: MemorySink, alive: MemorySink, on_stall: str) -> Plan:
        return plan_of(
            {
                "source": (MemorySource(pages(COUNT)), []),
                "dead": (dead, ["source"]),
                "alive": (alive, ["source"]),
            },
            options={
                "dead": NodeOptions(
                    retry=RetryOptions(attempts=2, base=1.0, cap=1.0),
                    on_stall=on_stall,  # type: ignore[arg-type]
                )
            },
            settings=Settings(outage_limit=600.0),
        )

    class Down(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            raise TransientError("no service listens")

    @pytest.mark.slow
    async def test_stalls_the_others_and_then_the_run(self) -> None:
        alive = MemorySink()
        async with Engine(clock=ScriptedClock(jump=True)) as engine:
            report = await engine.run(self.plan(self.Down(), alive, "wait"))

        assert (report.status, report.dead_letters) == (RunStatus.OUTAGE, 0)
        assert report.error.startswith("'dead' could deliver nothing for ")
        assert len(alive.records) < COUNT / 2

    @pytest.mark.slow
    async def test_stalled_branch_gives_up_only_its_own_records(self) -> None:
        alive, clock = MemorySink(), ScriptedClock(jump=True)
        async with Engine(clock=clock) as engine:
            report = await engine.run(self.plan(self.Down(), alive, "dead_letter"))

        assert (report.ok, report.tally.written, report.tally.dead) == (True, COUNT, COUNT)
        assert report.tally.deaths == {"dead": COUNT}
        assert alive.records == list(range(COUNT))

    @pytest.mark.slow
    async def test_stalled_branch_also_gives_up_when_throttled(self) -> None:
        alive, clock = MemorySink(), ScriptedClock(jump=True)
        async with Engine(clock=clock) as engine:
            report = await engine.run(self.plan(Busy(lambda: True, 1.0), alive, "dead_letter"))

        assert (report.ok, report.tally.written, report.tally.deaths) == (True, COUNT, {"dead": COUNT})


@pytest.mark.slow
async def test_copies_of_dead_letters_that_cannot_be_delivered_are_named() -> None:
    clock = ScriptedClock()

    class Refusing(FaultySink):
        def __init__(self) -> None:
            super().__init__(poison=lambda record: record == 3)

    forward = plan_of({"copies": (Busy(lambda: clock.monotonic() < 60, 60.0), [])}).nodes[0]
    plan = linear_plan(
        MemorySource(pages(COUNT)), Refusing(), dead_letters=DeadLetterSettings(forward=forward)
    )

    report, stood = await held_up(plan, "copies (answered 429)", lambda: clock.advance(61), clock=clock)

    assert stood.tally.read < COUNT / 2
    assert (report.ok, report.tally.dead) == (True, 1)


async def test_a_worker_that_continues_hides_no_other_that_waits() -> None:
    stats = NodeStats("load", Kind.SINK, "ingest")
    with stats.waits(Waiting.RETRY, "answered 429"):
        with stats.waits(Waiting.INPUT), stats.waits(Waiting.OUTAGE, "no service listens"):
            assert (stats.waiting, stats.note) == (Waiting.OUTAGE, "no service listens")
        assert (stats.waiting, stats.note) == (Waiting.RETRY, "answered 429")
    assert (stats.waiting, stats.note) == (Waiting.NOTHING, "")
