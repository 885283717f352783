"""Two concurrent runs of one pipeline."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from engine.config.model import Settings
from engine.errors import RunOverlapError
from engine.execution import overlap
from engine.execution.engine import Engine
from engine.execution.overlap import policy_of
from engine.execution.run import Run
from engine.execution.session import Session
from engine.plan.model import Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import pages

pytestmark = pytest.mark.anyio


def plan(policy: str, stall: anyio.Event | None = None, sink: MemorySink | None = None) -> Plan:
    sink = sink or MemorySink(stall=stall)
    return linear_plan(MemorySource(pages(3)), sink, settings=Settings(if_running=policy))


@asynccontextmanager
async def under_way(engine: Engine, policy: str = "allow") -> AsyncGenerator[tuple[Run, anyio.Event], None]:
    """A run that lasts until the event is set, or the block ends."""
    stall = anyio.Event()
    async with anyio.create_task_group() as group, engine.start(plan(policy, stall)) as run:
        group.start_soon(run.wait)
        while not run.snapshot().tally.read:  # noqa: ASYNC110 - a run sends no event when it has read
            await anyio.sleep(0.001)
        try:
            yield run, stall
        finally:
            stall.set()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Set when a run that is about to begin has seen another one."""
    event, others = anyio.Event(), overlap.Entry.others

    async def noting(entry: overlap.Entry, own: str = "") -> list[overlap._Other]:
        found = await others(entry, own)
        if found:
            event.set()
        return found

    monkeypatch.setattr(overlap.Entry, "others", noting)
    return event


async def test_a_second_run_is_refused_and_the_holder_named() -> None:
    async with Engine() as engine, under_way(engine) as (other, _):
        before = [run.run_id for run in await engine.store.list_runs()]
        with pytest.raises(RunOverlapError) as caught:
            await engine.run(plan("refuse"))
        after = [run.run_id for run in await engine.store.list_runs()]

    assert other.run_id in str(caught.value)
    assert "let it finish or stop it, or set `if_running: wait`" in str(caught.value)
    assert before == after == [other.run_id]


async def test_a_second_run_waits_for_the_first(seen: anyio.Event) -> None:
    sink = MemorySink()
    async with Engine() as engine:
        with anyio.fail_after(300):
            async with under_way(engine) as (_, stall), anyio.create_task_group() as group:
                group.start_soon(engine.run, plan("wait", sink=sink))
                await seen.wait()
                assert sink.records == []
                stall.set()
        runs = await engine.store.list_runs()

    assert sink.records == [0, 1, 2]
    assert [run.status for run in runs] == [RunStatus.COMPLETED, RunStatus.COMPLETED]


async def test_a_second_run_is_left_out_without_an_error() -> None:
    async with Engine() as engine, under_way(engine):
        session = Session(engine, {"test": plan("skip")}, ["test"])
        await session.execute()

    report = session.reports["test"]
    assert report.status is RunStatus.SKIPPED
    assert "this run was skipped" in report.error


async def test_a_drain_ends_the_wait(seen: anyio.Event) -> None:
    async with Engine() as engine, under_way(engine):
        session = Session(engine, {"test": plan("wait")}, ["test"])
        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                group.start_soon(session.execute)
                await seen.wait()
                session.drain()

    assert session.reports["test"].status is RunStatus.INTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["refuse", "skip", "wait"])
async def test_of_many_that_begin_together_one_runs_at_a_time(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "GIVE_WAY_WITHIN", 300.0)
    running = most = done = refused = 0

    class Counting(MemorySink):
        async def write(self, batch: object) -> None:  # type: ignore[override]
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await anyio.sleep(0.05)
            running -= 1
            done += 1

    async def one(engine: Engine) -> None:
        nonlocal refused
        try:
            await engine.run(plan(policy, sink=Counting()))
        except RunOverlapError:
            refused += 1

    async with Engine(state_dir=tmp_path / "state") as engine:
        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(one, engine)

    assert most == 1
    assert done + refused == 5
    assert done == 5 if policy == "wait" else done >= 1


async def test_a_resumed_run_gives_way_and_can_be_resumed_later() -> None:
    store = MemoryStateStore()
    async with Engine(store=store) as engine:
        async with under_way(engine) as (other, _):
            other.cancel()
        record = (await store.list_runs())[0]
        assert record.status is RunStatus.INTERRUPTED
        async with under_way(engine):
            with pytest.raises(RunOverlapError):
                await engine.run(plan("refuse"), resume=record)
        assert (await store.get_run(record.run_id)).status is RunStatus.INTERRUPTED
        assert (await engine.run(plan("refuse"), resume=record)).ok


def test_only_a_source_with_bookmarks_is_refused_by_default() -> None:
    given = plan("")
    source = given.nodes[0]
    remembering = replace(source, spec=replace(source.spec, bookmarks=True))

    assert policy_of(given) == "allow"
    assert policy_of(replace(given, nodes=(remembering, *given.nodes[1:]))) == "refuse"
    assert policy_of(plan("wait")) == "wait"
