"""Ways to leave a working engine or run: each leaves it consistent and resumable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine.contract.batch import Batch
from engine.contract.component import NoParams, Receipt, Source
from engine.contract.types import Record
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.plan.model import Plan
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import pages

COUNT = 600


class Slow(MemorySink):
    """Takes its time: gives way before each batch, so that there is always something in flight."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(workers=2)
        self.keys = into
        self.closed = 0

    async def write(self, batch: Batch) -> Receipt:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return await super().write(batch)

    async def __aexit__(self, *error: object) -> None:
        self.closed += 1


def plan_into(sink: MemorySink) -> Plan:
    return linear_plan(MemorySource(pages(COUNT)), sink)


class ProblemError(Exception):
    """What somebody else's code raises."""


async def under_way(sink: MemorySink) -> None:
    while len(sink.keys) < 100:
        await anyio.lowlevel.checkpoint()


async def leaving_the_run_by_an_exception(folder: Path, sink: Slow) -> None:
    async with Engine(state_dir=folder) as engine:
        with pytest.raises(ProblemError):
            async with anyio.create_task_group() as outer:
                try:
                    async with engine.start(plan_into(sink)) as run:
                        outer.start_soon(run.wait)
                        await under_way(sink)
                        raise ProblemError
                except ProblemError as error:
                    problem = error
            raise problem


async def leaving_the_engine_by_an_exception(folder: Path, sink: Slow) -> None:
    async with anyio.create_task_group() as outer:
        with pytest.raises(ProblemError):
            async with Engine(state_dir=folder) as engine:

                async def at_work() -> None:
                    async with engine.start(plan_into(sink)) as run:
                        await run.wait()

                outer.start_soon(at_work)
                await under_way(sink)
                raise ProblemError


async def a_cancelled_scope_around_it(folder: Path, sink: Slow) -> None:
    async with anyio.create_task_group() as group:

        async def at_work() -> None:
            async with Engine(state_dir=folder) as engine:
                await engine.run(plan_into(sink))

        group.start_soon(at_work)
        await under_way(sink)
        group.cancel_scope.cancel()


async def a_sibling_that_fails(folder: Path, sink: Slow) -> None:
    async def failing() -> None:
        await under_way(sink)
        raise ProblemError

    with pytest.raises(ExceptionGroup):
        async with Engine(state_dir=folder) as engine, anyio.create_task_group() as group:
            group.start_soon(engine.run, plan_into(sink))
            group.start_soon(failing)


async def a_task_that_asyncio_cancels(folder: Path, sink: Slow) -> None:
    async def at_work() -> None:
        async with Engine(state_dir=folder) as engine:
            await engine.run(plan_into(sink))

    task = asyncio.ensure_future(at_work())
    await under_way(sink)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


WAYS = (
    leaving_the_run_by_an_exception,
    leaving_the_engine_by_an_exception,
    a_cancelled_scope_around_it,
    a_sibling_that_fails,
)


async def finished_later(folder: Path, sink: Slow) -> RunReport:
    """What has to hold after any way of leaving, and the report of the attempt that resumes."""
    async with Engine(state_dir=folder) as engine:
        (record,) = await engine.store.list_runs()
        assert record.status is RunStatus.INTERRUPTED
        assert await engine.store.leases(record.run_id) == []
        before = await engine.store.tally(record.run_id)
        assert before.balanced
        assert before.written <= len(sink.keys) < COUNT
        second: list[str] = []
        report = await engine.run(plan_into(Slow(second)), resume=record, verify=True)
    assert sink.closed == 1
    assert len(second) == COUNT - before.written
    assert len({*sink.keys, *second}) == COUNT
    assert (report.status, report.tally.written, report.verified) == (RunStatus.COMPLETED, COUNT, True)
    return report


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_run_that_is_left_is_cancelled_and_can_be_resumed(
    tmp_path: Path, way: Callable[[Path, Slow], Awaitable[None]]
) -> None:
    sink = Slow([])
    with anyio.fail_after(300):
        await way(tmp_path, sink)
        await finished_later(tmp_path, sink)


@pytest.mark.slow
async def test_a_run_whose_task_asyncio_cancels_can_be_resumed(tmp_path: Path) -> None:
    sink = Slow([])
    await a_task_that_asyncio_cancels(tmp_path, sink)
    await finished_later(tmp_path, sink)


class Drained:
    """A run in a task of its own, and its report."""

    def __init__(self) -> None:
        self.reports: list[RunReport] = []

    async def wait(self, run: Run) -> None:
        self.reports.append(await run.wait())

    def check(self, sink: MemorySink) -> None:
        (report,) = self.reports
        assert report.status is RunStatus.INTERRUPTED
        # everything that was read was delivered, and nothing else was read
        assert report.tally.read == report.tally.written == len(sink.keys) < COUNT


@pytest.mark.slow
@pytest.mark.anyio
async def test_leaving_the_block_of_a_run_as_usual_drains_it(tmp_path: Path) -> None:
    sink, drained = Slow([]), Drained()
    with anyio.fail_after(300):
        async with Engine(state_dir=tmp_path) as engine, anyio.create_task_group() as outer:
            async with engine.start(plan_into(sink)) as run:
                outer.start_soon(drained.wait, run)
                await under_way(sink)
            drained.check(sink)
        await finished_later(tmp_path, sink)


@pytest.mark.slow
@pytest.mark.anyio
async def test_leaving_an_engine_as_usual_drains_the_runs_of_other_tasks(tmp_path: Path) -> None:
    sink, drained = Slow([]), Drained()

    async def at_work(engine: Engine) -> None:
        async with engine.start(plan_into(sink)) as run:
            await drained.wait(run)

    with anyio.fail_after(300):
        async with anyio.create_task_group() as outer:
            async with Engine(state_dir=tmp_path) as engine:
                outer.start_soon(at_work, engine)
                await under_way(sink)
            drained.check(sink)
        await finished_later(tmp_path, sink)


@pytest.mark.anyio
async def test_a_drain_on_leaving_that_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    sink, drained = MemorySink(stall=anyio.Event()), Drained()
    with anyio.fail_after(300):
        async with Engine(drain_limit=0.05) as engine, anyio.create_task_group() as outer:
            async with engine.start(plan_into(sink)) as run:
                outer.start_soon(drained.wait, run)
                while not run.snapshot().tally.read:
                    await anyio.lowlevel.checkpoint()
    assert (drained.reports[0].status, drained.reports[0].tally.read) == (RunStatus.INTERRUPTED, 0)


@pytest.mark.anyio
async def test_a_cancellation_ends_a_drain_on_leaving(tmp_path: Path) -> None:
    sink, drained = MemorySink(stall=anyio.Event()), Drained()
    with anyio.fail_after(300):
        async with Engine() as engine, anyio.create_task_group() as outer:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    async with engine.start(plan_into(sink)) as run:
                        outer.start_soon(drained.wait, run)
                        while not run.snapshot().tally.read:
                            await anyio.lowlevel.checkpoint()
                        group.start_soon(cancel_once_draining, run)

                async def cancel_once_draining(run: Run) -> None:
                    while not run.snapshot().draining:
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()

                group.start_soon(leave)
            # the block is left, so the run has ended
            assert [report.status for report in drained.reports] in ([], [RunStatus.INTERRUPTED])
    assert [report.status for report in drained.reports] == [RunStatus.INTERRUPTED]


@pytest.mark.anyio
async def test_a_run_that_is_waited_for_too_late_reads_nothing() -> None:
    class Never(Source[NoParams]):
        async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
            raise AssertionError
            yield

    async with Engine() as engine:
        async with engine.start(linear_plan(Never(NoParams()), MemorySink())) as run:
            pass
        assert (await run.wait()).status is RunStatus.INTERRUPTED
