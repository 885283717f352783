"""An engine that works until it is stopped, and reports its resources every few seconds.

A process of its own, so that only what the engine needs is measured. Its standard output is JSON lines: one
`Sample` after the other, and a last line with what it has delivered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio

from engine.cli.event_loop import on_event_loop
from engine.cli.loading import load_plans
from engine.cli.options import PlanOptions
from engine.execution.engine import Engine
from engine.execution.lease import acquire
from engine.execution.report import RunReport
from engine.execution.session import Session
from engine.state import JournalFilter
from tests.reliability.harness.workload import SIMULATED

__all__ = ["DOCUMENTS", "Sample", "main"]

DOCUMENTS = "unstructured_data"
RECORDS = 10**9
ANY_NUMBER_DIES = (f"pipelines.{DOCUMENTS}.dead_letters.max=100%",)  # the samples hold broken documents
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
OWN = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process needs at one moment.

    Args:
        seconds: since the first record was read.
        rss: bytes of memory that are in use.
        descriptors: open files and sockets.
        threads: of the process.
        tasks: of the event loop.
        state: bytes of the state store's files.
        records: read so far.
    """

    seconds: float
    rss: int
    descriptors: int
    threads: int
    tasks: int
    state: int
    records: int


class Enduring:
    """The endless run of the simulated pipelines, and round after round of the documents."""

    def __init__(self, file: str, engine: Engine, state_dir: Path) -> None:
        self._file, self._engine, self._state_dir = file, engine, state_dir
        endless = [f"{name}.batch_size={RECORDS}" for name in SIMULATED]
        plans = load_plans(PlanOptions(file=file, param=tuple(endless)), only=SIMULATED)
        self._endless = Session(engine, plans, list(SIMULATED))
        self._ended = 0
        self._stopped = False
        self.rounds: Counter[str] = Counter()

    async def run(self, seconds: float, every: float) -> list[RunReport]:
        """Work for this many seconds from the first record on; return the reports of the endless run."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._endless.execute)
            group.start_soon(self._read_documents)
            while not self._sample(0.0).records:  # noqa: ASYNC110 - a busy machine needs long to begin
                await anyio.sleep(0.05)
            began = anyio.current_time()
            while (passed := anyio.current_time() - began) < seconds:
                _say(asdict(self._sample(passed)))
                await anyio.sleep(min(every, max(seconds - passed, 0.01)))
            self._stopped = True
            self._endless.drain()
        return list(self._endless.reports.values())

    async def _read_documents(self) -> None:
        """Each round asks the model again; what it leaves in the store is removed, as `runs forget` does."""
        while not self._stopped:
            number = self.rounds.total() + 1
            given = {DOCUMENTS: {"processing_instructions": f"This is round {number}."}}
            options = PlanOptions(file=self._file, assignments=ANY_NUMBER_DIES)
            plans = load_plans(options, only=[DOCUMENTS], params=given)
            session = Session(self._engine, plans, [DOCUMENTS])
            await session.execute()
            for report in session.reports.values():
                self.rounds[report.error or str(report.status)] += 1
                self._ended += report.tally.read
                await self._engine.store.purge_journal(JournalFilter(run_id=report.run_id))
                async with acquire(self._engine.store, self._engine.clock, report.run_id) as lease:
                    await self._engine.store.delete_run(report.run_id, epoch=lease.epoch)

    def _sample(self, seconds: float) -> Sample:
        running = [entry.snapshot() for entry in self._endless.entries.values()]
        read = sum(one.tally.read for one in running if one is not None)
        return Sample(
            seconds=round(seconds, 1),
            rss=int((OWN / "statm").read_text().split()[1]) * PAGE_SIZE,
            descriptors=len(os.listdir(OWN / "fd")),
            threads=len(os.listdir(OWN / "task")),
            tasks=len(asyncio.all_tasks()),
            state=sum(file.stat().st_size for file in self._state_dir.glob("state.sqlite3*")),
            records=self._ended + read,
        )


def main(argv: list[str]) -> int:
    """`FILE STATE_DIR SECONDS EVERY`: work for SECONDS, with a sample every EVERY seconds."""
    file, state_dir, seconds, every = argv[0], Path(argv[1]), float(argv[2]), float(argv[3])

    async def work() -> int:
        async with Engine(state_dir=state_dir) as engine:
            enduring = Enduring(file, engine, state_dir)
            reports = await enduring.run(seconds, every)
        delivered = {report.pipeline: report.tally.written for report in reports}
        errors = [f"{report.pipeline}: {report.error}" for report in reports if report.error]
        _say({"delivered": delivered, "errors": errors, "rounds": dict(enduring.rounds)})
        return 0

    return on_event_loop(work)


def _say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
