"""Two processes resume one run at the same moment: one works, the other is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import pytest

from engine.errors import LeaseHeldError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan

PAGES = [[{"id": number} for number in range(start, start + 10)] for start in range(0, 100, 10)]


async def _interrupted(folder: Path) -> tuple[str, MemorySink]:
    """A run of which a part was written."""
    sink = FaultySink([None, None, RuntimeError("a bug")])
    async with Engine(state_dir=folder) as engine:
        report = await engine.run(linear_plan(MemorySource(PAGES), sink))
    assert report.status is RunStatus.FAILED
    return report.run_id, sink


@pytest.mark.parametrize("engines", [2, 4])
async def test_of_resumes_at_once_one_works_and_the_others_are_refused(tmp_path: Path, engines: int) -> None:
    run_id, before = await _interrupted(tmp_path)
    decided = anyio.Event()
    sinks = [MemorySink(stall=decided) for _ in range(engines)]
    reports: list[RunReport] = []
    refused: list[LeaseHeldError] = []
    ready, go = anyio.Semaphore(0), anyio.Event()

    async def resume(sink: MemorySink) -> None:
        async with Engine(state_dir=tmp_path) as engine:
            record = await engine.store.get_run(run_id)
            ready.release()
            await go.wait()
            try:
                async with engine.start(linear_plan(MemorySource(PAGES), sink), resume=record) as run:
                    reports.append(await run.wait())
            except LeaseHeldError as error:
                refused.append(error)
                if len(refused) == engines - 1:
                    decided.set()

    with anyio.fail_after(300):
        async with anyio.create_task_group() as group:
            for sink in sinks:
                group.start_soon(resume, sink)
            for _ in sinks:
                await ready.acquire()
            go.set()

    assert [report.status for report in reports] == [RunStatus.COMPLETED]
    written = Counter(key for sink in (before, *sinks) for key in sink.keys)
    assert len(written) == 100
