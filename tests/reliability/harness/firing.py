"""Triggers and schedules of a served file, while `serve` is killed: each fires once.

A client starts runs over HTTP while a schedule starts others, and SIGKILL ends the service, at any moment or
with a trigger on the wire. At the end, each trigger that was answered has its run, each that was not has one
or none, each tick has one run, all have completed, and their rows are in the warehouse once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import httpx

from engine.cli.local.ticks import tick_of
from engine.service.discovery import find_running
from engine.state import RunRecord, open_store
from engine.state.records import RunStatus
from tests.reliability.harness.children import LOOK_EVERY, START_SECONDS, Child
from tests.servers.ports import lasting_port

__all__ = ["PLACES", "FiringOutcome", "firing_trial", "what_fired_wrongly"]

IN_FLIGHT, ANY_MOMENT = "trigger in flight", "any moment"
PLACES = (IN_FLIGHT, ANY_MOMENT)
KILLS = 4
EVERY = 5  # seconds; the service makes up for ten missed ticks at most
TICKED, TRIGGERED = 50, 200  # records of a run
PATIENCE = 300.0

ROWS = (
    "SELECT (SELECT count(*) FROM Blob), (SELECT count(DISTINCT id) FROM Blob),"
    " (SELECT count(*) FROM Log), (SELECT count(DISTINCT id) FROM Log)"
)

FILE = f"""\
version: 1
connections: {{warehouse: {{url: sandbox}}}}
pipelines:
  ticked:
    schedule: {EVERY}s
    catch_up: 10m
    if_running: allow
    nodes:
      make: {{source: blob, with: {{records: {TICKED}}}}}
      load: {{sink: ingest, with: {{connection: warehouse, model: BlobSource}}}}
  triggered:
    nodes:
      make: {{source: logs, with: {{records: {TRIGGERED}}}}}
      load: {{sink: ingest, with: {{connection: warehouse, model: LogSource}}}}
"""


@dataclass
class FiringOutcome:
    """The outcome of a trial. `unanswered` triggers may have had an effect or none."""

    name: str
    struck: list[str] = field(default_factory=list)
    triggers: int = 0
    unanswered: int = 0
    ticks: int = 0
    resumed: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Served:
    """The service, and what its client knows of the triggers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state, self._folder, self._port = folder / "state", folder, lasting_port()
        self._file = folder / "pipelines.yaml"
        self._file.write_text(FILE)
        self.url, self._lives = f"http://127.0.0.1:{self._port}", 0
        self.answered: list[str] = []
        self.unanswered = 0

    @contextmanager
    def life(self) -> Iterator[Child]:
        """From a start to a kill, or an end by itself."""
        self._lives += 1
        arguments = ["serve", str(self._file), "--port", str(self._port), "--state-dir", str(self.state)]
        child = Child(arguments, self._folder / f"serve-{self._lives}")
        try:
            until = time.monotonic() + START_SECONDS
            while (found := find_running(self.state)) is None or found.pid != child.process.pid:
                if child.wait(LOOK_EVERY) is not None or time.monotonic() > until:
                    raise RuntimeError(f"serve did not come up: {child.errors}")
            yield child
        finally:
            child.kill()

    def trigger(self) -> None:
        """Start a run; an answer that does not come counts as none."""
        try:
            answer = httpx.post(f"{self.url}/consumption/extract-triggered", timeout=PATIENCE).json()
        except (httpx.HTTPError, ValueError):
            self.unanswered += 1
            return
        if answer.get("success"):
            self.answered.append(answer["run_id"])

    def query(self, sql: str) -> list[int]:
        """The first row of an answer."""
        answer = httpx.post(f"{self.url}/sql", json={"sql": sql}, timeout=PATIENCE).json()
        return [int(value) for value in answer["rows"][0]]

    def runs(self) -> list[RunRecord]:
        """All runs of the state store; the service may be there or not."""

        async def read() -> list[RunRecord]:
            async with open_store(self.state) as store:
                return list(await store.list_runs())

        return asyncio.run(read())


def firing_trial(seed: int, number: int, folder: Path) -> FiringOutcome:
    """Run a trial: some lives that end by SIGKILL, and a last one in which everything ends."""
    begun, random = time.monotonic(), Random(f"fires/{seed}/{number}")
    outcome, served = FiringOutcome(f"fires {seed}/{number}"), _Served(folder)
    for _ in range(KILLS):
        outcome.struck.append(_killed(served, random))
    with served.life():
        served.trigger()
        runs, rows = _at_rest(served)
    outcome.triggers, outcome.unanswered = len(served.answered), served.unanswered
    outcome.resumed = sum(run.attempt > 1 for run in runs)
    outcome.ticks = sum(run.pipeline == "ticked" for run in runs)
    outcome.problems = what_fired_wrongly(served.answered, served.unanswered, runs, rows)
    outcome.seconds = round(time.monotonic() - begun, 1)
    return outcome


def _killed(served: _Served, random: Random) -> str:
    place = random.choice(PLACES)
    with served.life():
        until = time.monotonic() + random.uniform(1.0, 8.0)
        while time.monotonic() < until:
            served.trigger()
            time.sleep(random.uniform(0.05, 0.6))
        if place == ANY_MOMENT:
            time.sleep(random.uniform(0.0, 0.5))
            return place
        last = threading.Thread(target=served.trigger)
        last.start()
        time.sleep(random.uniform(0.0, 0.1))
    last.join()
    return place


def _at_rest(served: _Served) -> tuple[list[RunRecord], list[int]]:
    """The runs and the rows of a moment in which every run had completed, or of the last one waited for."""
    until = time.monotonic() + PATIENCE
    while True:
        runs, rows = served.runs(), served.query(ROWS)
        is_over = all(run.status is RunStatus.COMPLETED for run in runs) and len(served.runs()) == len(runs)
        if is_over or time.monotonic() > until:
            return runs, rows
        time.sleep(LOOK_EVERY)


def what_fired_wrongly(
    answered: Sequence[str], unanswered: int, runs: Sequence[RunRecord], rows: Sequence[int]
) -> list[str]:
    """What contradicts that each trigger and each tick has fired once.

    Args:
        answered: runs that the service said it had started.
        unanswered: triggers without an answer, which have a run or none.
        runs: of both pipelines.
        rows: blobs, their distinct ids, logs, and theirs.
    """
    scheduled = [run for run in runs if run.pipeline == "ticked"]
    triggered = {run.run_id for run in runs if run.pipeline == "triggered"}
    ticks = sorted(tick for run in scheduled if (tick := tick_of("ticked", run.run_id)) is not None)
    step = timedelta(seconds=EVERY)
    gaps = [str(one) for one, two in pairwise(ticks) if two - one != step]
    unfinished = [run.run_id for run in runs if run.status is not RunStatus.COMPLETED]
    blobs, own_blobs, logs, own_logs = rows
    wrong = {
        f"answered triggers without a run: {sorted(set(answered) - triggered)}": set(answered) - triggered,
        f"{len(triggered)} runs of {len(answered)} triggers and {unanswered} unanswered": (
            len(triggered) > len(set(answered)) + unanswered
        ),
        "two triggers were answered with the same run": len(set(answered)) < len(answered),
        f"{len(scheduled)} scheduled runs of {len(ticks)} ticks": len(scheduled) != len(ticks),
        f"ticks left out or doubled after {gaps}": gaps,
        f"not completed: {unfinished}": unfinished,
        f"rows stored twice: {blobs - own_blobs} blobs, {logs - own_logs} logs": rows[::2] != rows[1::2],
        f"{own_logs} logs of {len(triggered)} triggered runs": own_logs != TRIGGERED * len(triggered),
        f"{own_blobs} blobs of {len(ticks)} ticks": own_blobs != TICKED * len(ticks),
    }
    return [text for text, is_so in wrong.items() if is_so]
