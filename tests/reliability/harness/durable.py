"""Trials of durable runs: real workers, a real Temporal server, faults, and the verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import anyio
from temporalio.client import Client

from engine.contract.types import JsonValue
from tests.reliability.harness.children import Child, serving
from tests.reliability.harness.durable_plans import AWAY, CALLS, Setting, WorkerKill, WorkerKills
from tests.reliability.harness.evidence import (
    Evidence,
    Paid,
    ServiceRecords,
    raw_counts,
    read_service,
    read_state,
)
from tests.reliability.harness.fleet import Fleet, TrialError
from tests.reliability.harness.outcome import COMPLETED, KILLED
from tests.reliability.harness.pipeline_file import pipeline_file
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.verdict import differences
from tests.reliability.harness.workload import PIPELINES, Workload, environment
from tests.servers.postgres import Postgres
from tests.servers.temporal import DevServer
from tests.temporal.histories import Family, family, kind

__all__ = ["ROUND", "DurableLab", "DurableOutcome"]

MAX_RUN = 300.0
DOCUMENTS = PIPELINES[-1:]
ROUND = "every worker restarted"
NOTHING = Evidence(ServiceRecords({}, []), [], []), Paid(0, 0, 0)


@dataclass
class DurableOutcome:
    """The outcome of a trial.

    Args:
        struck: what counts towards the goal of a series.
        handed_back: chunks that workers gave back unfinished because they were told to stop.
        most_attempts: at one activity.
        workers: processes that took a chunk, by the histories, which know who made the last attempt at it.
        records_redone: records that have come by a second time.
        documents_paid_again: beyond what an undisturbed local run pays for.
    """

    name: str
    pipelines: tuple[str, ...]
    store: str
    struck: list[str] = field(default_factory=list)
    chunks: int = 0
    handed_back: int = 0
    most_attempts: int = 0
    workers: int = 0
    records_redone: int = 0
    documents_paid_again: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class _Limits:
    """What may be done, or paid for, a second time because of what was struck."""

    records: int = 0
    documents: int = 0

    def add(self, setting: Setting, chunks: int) -> None:
        """So many chunks have lost their worker: their records, and the calls that were out for them."""
        self.records += chunks * setting.chunk_records
        self.documents += chunks * CALLS * (setting.workload.documents // 2)


Course = Callable[[Fleet, DurableOutcome, _Limits], None]


class DurableLab:
    """What trials of durable runs share: a Temporal server, and what local runs leave.

    Args:
        lab: has the embedded S3 and model.
        server: is killed by some trials, so it has to keep everything in a file for those.
        postgres: gives the database for trials that want one.
    """

    def __init__(self, lab: Lab, server: DevServer, postgres: Callable[[], Postgres]) -> None:
        self._lab = lab
        self._server = server
        self._postgres = postgres
        self._local: dict[Workload, tuple[Evidence, Paid]] = {}

    def equal(self, setting: Setting, workers: int) -> DurableOutcome:
        """A run by some workers that nothing happens to, beside the same by one local process.

        Nothing is let through before each of them has a chunk.
        """

        def course(fleet: Fleet, outcome: DurableOutcome, _: _Limits) -> None:
            crew = [fleet.worker(closed=True, slots=setting.slots) for _number in range(workers)]
            fleet.submit(heartbeat=setting.heartbeat, chunk_splits=setting.chunk_splits)
            for worker in crew:
                fleet.until(lambda worker=worker: worker.chunks > 0, f"a chunk for {worker.name}")  # type: ignore[misc]
            outcome.struck += [
                f"{name}, {workers} worker{'s' * (workers > 1)}" for name in setting.workload.pipelines
            ]

        _, usual = self._locally(setting.workload)
        before = self._lab.paid()
        outcome = self._trial(setting, course, local=setting.workload)
        paid = self._lab.paid().since(before)
        if outcome.workers != workers and not outcome.problems:
            outcome.problems.append(f"{outcome.workers} of {workers} workers took a chunk")
        if paid != usual and not outcome.problems:
            outcome.problems.append(f"paid {paid}, locally {usual}")
        return outcome

    def worker_kills(self, plan: WorkerKills) -> DurableOutcome:
        """Workers die one after another while they have work; others take over, or one that is started."""
        setting = plan.setting

        def course(fleet: Fleet, outcome: DurableOutcome, limits: _Limits) -> None:
            beside = fleet.worker(closed=True, slots=setting.slots) if plan.beside else None
            fleet.submit(heartbeat=setting.heartbeat, chunk_splits=setting.chunk_splits)
            if beside is not None:
                fleet.until_busy(beside)
            for kill in plan.kills:
                _have_killed(fleet, kill, setting, outcome, limits)
            if beside is None or plan.again:
                fleet.worker(slots=setting.slots)

        return self._trial(setting, course)

    def rolling(self, setting: Setting, rounds: int, workers: int = 2) -> DurableOutcome:
        """All workers are told to stop and are started again, one after another, while each has work."""

        def course(fleet: Fleet, outcome: DurableOutcome, _: _Limits) -> None:
            crew = [fleet.worker(closed=True, slots=setting.slots) for _number in range(workers)]
            fleet.submit(heartbeat=setting.heartbeat, chunk_splits=setting.chunk_splits)
            for _round in range(rounds):
                for place, worker in enumerate(crew):
                    fleet.until_busy(worker)
                    fleet.stop(worker)
                    crew[place] = fleet.worker(closed=True, slots=setting.slots)
                outcome.struck.append(ROUND)

        outcome = self._trial(setting, course)
        if outcome.most_attempts != 1:
            outcome.problems.append(f"an attempt was used up: {outcome.most_attempts} at one activity")
        if outcome.handed_back < rounds * workers:
            outcome.problems.append(f"{outcome.handed_back} chunks handed back in {rounds} rounds")
        return outcome

    def server_killed(self, setting: Setting, away: str, random: Random) -> DurableOutcome:
        """The Temporal server dies under a run and comes back at its address.

        Args:
            away: one of `AWAY`.
        """

        def course(fleet: Fleet, outcome: DurableOutcome, limits: _Limits) -> None:
            crew = [fleet.worker(closed=True, slots=setting.slots) for _number in range(2)]
            fleet.submit(heartbeat=setting.heartbeat, chunk_splits=setting.chunk_splits)
            for worker in crew:
                fleet.until_busy(worker)
            if away not in AWAY[:3]:
                for worker in crew:
                    worker.open()
                time.sleep(random.uniform(0.0, 0.5))
            try:
                under_way = not fleet.over and bool(fleet.leases())
                self._server.kill()
                if away == AWAY[1]:
                    for worker in crew:
                        worker.open()
                    fleet.until(lambda: not fleet.leases(), "the end of the chunks under way")
                elif away == AWAY[2]:
                    fleet.kill(crew[0])
                    limits.add(setting, len(fleet.leases(crew[0])))
            finally:
                self._server.start()
            if under_way:
                outcome.struck.append(away)
            if away == AWAY[2]:
                fleet.worker(slots=setting.slots)

        return self._trial(setting, course)

    def _trial(self, setting: Setting, course: Course, *, local: Workload | None = None) -> DurableOutcome:
        """Do it, and compare what is there with what has to be.

        Args:
            local: what is run locally for that: the documents, if there are any; the rest is worked out.
        """
        workload = setting.workload
        with_documents = set(DOCUMENTS) <= set(workload.pipelines)
        if local is None and with_documents:
            local = workload.with_pipelines(DOCUMENTS)
        there, usual = self._locally(local) if local is not None else NOTHING
        outcome = DurableOutcome(
            setting.name, workload.pipelines, "PostgreSQL" if setting.database else "SQLite"
        )
        limits, before, started = _Limits(), self._lab.paid(), time.monotonic()
        try:
            found = self._conduct(setting, course, outcome, limits)
        except TrialError as error:
            outcome.problems.append(str(error))
        else:
            outcome.problems += differences(workload, found, there)
            if with_documents:
                outcome.documents_paid_again = self._lab.paid().since(before).documents - usual.documents
        for what, done, most in (
            ("records redone", outcome.records_redone, limits.records),
            ("documents paid for again", outcome.documents_paid_again, limits.documents),
        ):
            if not 0 <= done <= most:
                outcome.problems.append(f"{done} {what}, at most {most} can be")
        outcome.seconds = round(time.monotonic() - started, 2)
        return outcome

    def _conduct(
        self, setting: Setting, course: Course, outcome: DurableOutcome, limits: _Limits
    ) -> Evidence:
        folder = self._folder()
        file = pipeline_file(setting.workload, folder / "pipelines.yaml", gated=True)
        state: Path | str = folder / "state"
        if setting.database:
            postgres = self._postgres()
            postgres.clear()
            state = postgres.address()
        with serving(folder / "service", folder / "serve") as service:
            env = environment(self._lab.addresses, service.url)
            env["TEMPORAL_ADDRESS"] = self._server.address
            with Fleet(file, folder, state, env) as fleet:
                course(fleet, outcome, limits)
                fleet.conclude()
                outcome.records_redone = fleet.redone
                self._read_histories(outcome, list(fleet.runs.values()))
            records = read_service(service.url)
        found = read_state(state)
        return Evidence(records, found.runs, found.letters, raw_counts(folder / "service"))

    def _locally(self, workload: Workload) -> tuple[Evidence, Paid]:
        """What one local process leaves, and pays, that nothing happens to."""
        if workload not in self._local:
            folder, before = self._folder(), self._lab.paid()
            file = pipeline_file(workload, folder / "pipelines.yaml")
            command = ["run", str(file), "--state-dir", str(folder / "state"), "--progress", "none"]
            with serving(folder / "service", folder / "serve") as service:
                child = Child(command, folder / "run", environment(self._lab.addresses, service.url))
                code = child.wait(MAX_RUN)
                child.kill()
                records = read_service(service.url)
            found = read_state(folder / "state")
            evidence = Evidence(records, found.runs, found.letters, raw_counts(folder / "service"))
            problems = differences(workload, evidence, evidence)
            if code != COMPLETED or problems:
                raise AssertionError(f"a local run ended with {code}: {problems} {child.errors}")
            self._local[workload] = evidence, self._lab.paid().since(before)
        return self._local[workload]

    def _read_histories(self, outcome: DurableOutcome, workflows: Sequence[str]) -> None:
        identities = set[str]()
        for found in anyio.run(_families, self._server.client, workflows):
            results = list(_chunk_results(found))
            outcome.chunks += sum(bool(result["done"]) for result in results)
            outcome.handed_back += sum(bool(result["stopped"]) and not result["done"] for result in results)
            outcome.most_attempts = max(outcome.most_attempts, *found.attempts())
            identities |= found.identities("run_chunk")
        outcome.workers = len(identities)

    def _folder(self) -> Path:
        return Path(mkdtemp(prefix="durable-", dir=self._lab.folder))


def _have_killed(
    fleet: Fleet, kill: WorkerKill, setting: Setting, outcome: DurableOutcome, limits: _Limits
) -> None:
    """Start a worker and see it die; it counts when it had a part of the run in its hands."""
    victim = fleet.worker(closed=not kill.point, slots=setting.slots, point=kill.point, mortal=True)
    if kill.point:
        fleet.until(lambda: victim.ended is not None or fleet.over, f"the kill at {kill.point}")
    else:
        fleet.until(lambda: victim.chunks > 0 or fleet.over, f"work for {victim.name}")
        victim.open()
        time.sleep(kill.after)
        fleet.kill(victim)
    left = fleet.leases(victim) if victim.ended == KILLED else []
    if left:
        outcome.struck.append(kill.place)
    else:
        outcome.notes.append(f"{kill.place}: {victim.name} had no part of the run ({victim.ended})")
    limits.add(setting, len(left))


async def _families(client: Client, workflows: Sequence[str]) -> list[Family]:
    return [await family(client, workflow) for workflow in workflows]


def _chunk_results(found: Family) -> Iterator[dict[str, JsonValue]]:
    """What the activities that work on chunks have returned."""
    for parts in found.shards:
        for part in parts:
            for event in part.events:
                if kind(event) == "ACTIVITY_TASK_COMPLETED":
                    (payload,) = event.activity_task_completed_event_attributes.result.payloads
                    yield json.loads(payload.data)
