"""Errors that end a run without a crash: records in flight at other nodes are committed first."""

from __future__ import annotations

import anyio
import pytest

from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import NoParams, Transform
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.plan.model import DeadLetterSettings
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan, plan_of
from tests.unit.kernel.runs import Apply, TimeLimit, pages

pytestmark = pytest.mark.anyio


class Paid(Transform[NoParams]):
    """Four calls at a time; record 3 meets the fatal error, and only then the others get their answers."""

    def __init__(self, error: Exception, *, fails: bool = True) -> None:
        super().__init__(NoParams())
        self.error, self.fails = error, fails
        self.asked: list[object] = []
        self.failed = anyio.Event()

    @property
    def concurrency(self) -> int:
        return 4

    async def apply(self, batch: Batch) -> Batch:
        self.asked += batch.records
        if self.fails and 3 in batch.records:
            self.failed.set()
            raise self.error
        if self.fails and not self.failed.is_set():
            await self.failed.wait()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        return batch


@pytest.mark.parametrize("ordered", [False, True])
async def test_calls_in_flight_are_paid_once_and_delivered_once(ordered: bool) -> None:
    store, sinks = MemoryStateStore(), [MemorySink(), MemorySink()]
    paid = [Paid(FatalError("the budget is spent", kind="budget"), fails=fails) for fails in (True, False)]
    options = {"n1": NodeOptions(ordered=ordered)}
    async with Engine(store=store) as engine:
        with anyio.fail_after(300):
            source = MemorySource(pages(20, size=1))
            first = await engine.run(linear_plan(source, paid[0], sinks[0], options=options))
            record = await store.get_run(first.run_id)
            second = await engine.run(linear_plan(source, paid[1], sinks[1], options=options), resume=record)

    assert first.status is RunStatus.FAILED
    assert "the budget is spent" in first.error
    assert sorted(sinks[0].records) == [0, 1, 2]  # type: ignore[type-var]
    assert paid[0].asked[:4] == [0, 1, 2, 3]
    assert second.ok
    assert sorted(sinks[0].records + sinks[1].records) == list(range(20))  # type: ignore[type-var]
    assert second.tally.written == 20


async def test_no_batch_overtakes_one_that_has_failed() -> None:
    class Late(Paid):
        async def apply(self, batch: Batch) -> Batch:
            if self.fails and 1 in batch.records:
                await anyio.sleep(0.01)  # the later ones have their answers before it fails
                raise self.error
            return batch

    sink = MemorySink()
    transform = Late(FatalError("refused", kind="auth"))
    plan = linear_plan(
        MemorySource(pages(8, size=1)), transform, sink, options={"n1": NodeOptions(ordered=True)}
    )
    async with Engine() as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)

    assert report.status is RunStatus.FAILED
    assert sink.records == [0]


async def test_too_many_dead_letters_let_another_branch_finish() -> None:
    stall = anyio.Event()

    def refuse(batch: Batch) -> Batch:
        stall.set()
        return batch.outcomes([RecordError("bad") for _ in batch.records])

    slow = MemorySink(stall=stall)
    plan = plan_of(
        {
            "read": (MemorySource(pages(10, size=10)), []),
            "slow": (slow, ["read"]),
            "check": (Apply(refuse), ["read"]),
            "save": (MemorySink(), ["check"]),
        },
        dead_letters=DeadLetterSettings(max_count=0),
    )
    store = MemoryStateStore()
    async with Engine(store=store) as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)
            tally = await store.tally(report.run_id)

    assert report.status is RunStatus.FAILED
    assert "10 dead letters, 0 are allowed" in report.error
    assert slow.records == list(range(10))
    assert (tally.written, tally.dead) == (10, 10)


async def test_a_source_that_is_refused_has_its_earlier_pages_delivered() -> None:
    def fail(split: str, page: int) -> None:
        if page == 3:
            raise FatalError("access denied", kind="auth")

    sink, store = MemorySink(), MemoryStateStore()
    async with Engine(store=store) as engine:
        with anyio.fail_after(300):
            report = await engine.run(linear_plan(MemorySource(pages(50), fail=fail), sink))
            tally = await store.tally(report.run_id)

    assert report.status is RunStatus.FAILED
    assert "access denied" in report.error
    assert sink.records == list(range(30))
    assert (tally.read, tally.written) == (30, 30)


async def test_an_outage_lets_other_branches_finish() -> None:
    released = anyio.Event()

    class Away(FaultySink):
        async def write(self, batch: Batch) -> None:  # type: ignore[override]
            self.calls += 1
            if self.calls > 1:
                released.set()
            raise TransientError("connection refused")

    slow = MemorySink(stall=released)
    plan = plan_of(
        {
            "read": (MemorySource(pages(1)), []),
            "slow": (slow, ["read"]),
            "away": (Away(), ["read"]),
        },
        options={"away": NodeOptions(retry=RetryOptions(attempts=2, base=1.0, cap=1.0))},
        settings=Settings(outage_limit=5.0),
    )
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)

    assert report.status is RunStatus.OUTAGE
    assert slow.records == [0]


async def test_a_timeout_delivers_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = TimeLimit(monkeypatch)

    class Late(MemorySink):
        async def write(self, batch: Batch) -> None:  # type: ignore[override]
            limit.let_pass()
            await super().write(batch)

    sink = Late()
    store = MemoryStateStore()
    plan = linear_plan(MemorySource(pages(100_000)), sink, settings=Settings(timeout=limit.SECONDS))
    async with Engine(store=store) as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)
            tally = await store.tally(report.run_id)

    assert report.status is RunStatus.FAILED
    assert "ran longer than 86400 s" in report.error
    assert 100_000 > tally.written == len(sink.records) > 0
    assert report.tally.balanced


async def test_a_bug_ends_everything_at_once() -> None:
    def bug(batch: Batch) -> Batch:
        raise KeyError("x")

    never = MemorySink(stall=anyio.Event())
    plan = plan_of(
        {
            "read": (MemorySource(pages(10)), []),
            "slow": (never, ["read"]),
            "bug": (Apply(bug), ["read"]),
        }
    )
    async with Engine() as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)

    assert report.status is RunStatus.FAILED
    assert "KeyError" in report.error
    assert never.records == []
