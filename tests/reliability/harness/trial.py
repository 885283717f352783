"""One trial: start, strike, resume until it has completed, and see what is there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from engine.faultpoints import VARIABLE
from tests.reliability.harness.blows import Blow, Plan, ServiceKill
from tests.reliability.harness.children import Child, Service, sandboxed, serving
from tests.reliability.harness.evidence import (
    Evidence,
    LedgerRun,
    Paid,
    paid,
    raw_counts,
    read_ledger,
    read_service,
)
from tests.reliability.harness.proxy import proxied
from tests.reliability.harness.verdict import differences
from tests.reliability.harness.workload import Workload, environment, make_samples

__all__ = ["Attempt", "Lab", "Outcome", "laboratory"]

MORE_ATTEMPTS = 4
LONGEST_ATTEMPT = 120.0
STOPS_WITHIN = 2.0
CALLS_IN_FLIGHT = 8  # `concurrency` of `llm_extract`
KILLED = -signal.SIGKILL
WIRES = {"service": "INGEST_URL", "model": "OPENAI_BASE_URL", "lake": "S3_ENDPOINT"}
COMPLETED, DRAINED, STOPPED = 0, 6, 128 + signal.SIGTERM


@dataclass(frozen=True)
class Attempt:
    """One process: what was meant to happen to it, how it ended, and how long it took."""

    blow: str
    exit_code: int
    seconds: float
    ended_after_signal: float | None = None

    @property
    def was_killed(self) -> bool:
        return self.exit_code == KILLED


@dataclass
class Outcome:
    """What came of a trial.

    `problems` is empty when all is well; `notes` are worth a look. `paid_again` counts the documents that the
    model was paid for more than undisturbed, `may_be_paid_again` those of the calls that can have been in
    flight when processes died.
    """

    name: str
    workload: Workload
    attempts: list[Attempt] = field(default_factory=list)
    service_kills: int = 0
    wire_faults: dict[str, int] = field(default_factory=dict)
    exchanges: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    paid_again: int = 0
    may_be_paid_again: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """How often an engine process died of SIGKILL."""
        return sum(attempt.was_killed for attempt in self.attempts)

    @property
    def interruptions(self) -> int:
        """How often one ended before what it had begun was delivered."""
        return sum(attempt.exit_code not in (COMPLETED, DRAINED) for attempt in self.attempts)


class Lab:
    """What all trials share: the embedded S3 and model, and what an undisturbed run leaves."""

    def __init__(self, folder: Path, addresses: Mapping[str, Mapping[str, str]]) -> None:
        self.folder = folder
        self.addresses = addresses
        self._undisturbed: tuple[Evidence, Paid] | None = None
        self._number = 0

    def trial(self, plan: Plan) -> Outcome:
        """Run a trial to its verdict."""
        undisturbed, usual = self.undisturbed(plan.workload)
        outcome = Outcome(plan.name, plan.workload)
        started, before = time.monotonic(), self.paid()
        evidence = self._drive(plan, outcome)
        outcome.problems += differences(plan.workload, evidence, undisturbed)
        if "unstructured_data" in plan.workload.pipelines:
            outcome.paid_again = self.paid().since(before).documents - usual.documents
            in_flight = CALLS_IN_FLIGHT * outcome.interruptions + outcome.wire_faults.get("model", 0)
            outcome.may_be_paid_again = in_flight * (plan.workload.documents // 2)
            if outcome.paid_again > outcome.may_be_paid_again:
                outcome.problems.append(f"{outcome.paid_again} documents were paid for twice")
        outcome.seconds = round(time.monotonic() - started, 2)
        return outcome

    def undisturbed(self, workload: Workload) -> tuple[Evidence, Paid]:
        """What a run of the documents leaves, and pays, when nothing strikes it."""
        if self._undisturbed is None:
            calm = workload.with_pipelines(("unstructured_data",))
            outcome, before = Outcome("undisturbed", calm), self.paid()
            evidence = self._drive(Plan("undisturbed", calm), outcome)
            if outcome.problems or [attempt.exit_code for attempt in outcome.attempts] != [COMPLETED]:
                raise AssertionError(f"an undisturbed run went wrong: {outcome}")
            self._undisturbed = evidence, self.paid().since(before)
        return self._undisturbed

    def paid(self) -> Paid:
        """What the model has been paid for so far."""
        return paid(self.addresses["llm"]["base_url"])

    def _drive(self, plan: Plan, outcome: Outcome) -> Evidence:
        self._number += 1
        folder = self.folder / f"{self._number:03d}"
        with serving(folder / "service", folder / "serve") as service, ExitStack() as stack:
            world = environment(self.addresses, service.url)
            wires = {
                name: stack.enter_context(proxied(world[WIRES[name]], faults))
                for name, faults in plan.wires.items()
            }
            for name, proxy in wires.items():
                world[WIRES[name]] = proxy.url + urlsplit(world[WIRES[name]]).path
            with _Struck(service, plan.service) as struck:
                _Course(plan, outcome, folder, world).run()
            outcome.service_kills = struck.count
            outcome.wire_faults = {name: proxy.done.total() for name, proxy in wires.items()}
            outcome.exchanges = {name: proxy.exchanges for name, proxy in wires.items()}
            records = read_service(service.url)
        runs, letters = read_ledger(folder / "state")
        return Evidence(records, runs, letters, raw_counts(folder / "service"))


@contextmanager
def laboratory(folder: Path) -> Iterator[Lab]:
    """A lab whose files are in `folder`."""
    samples = make_samples(folder / "samples")
    with sandboxed("s3,llm", folder / "sandbox", samples, folder / "sandbox") as addresses:
        yield Lab(folder, addresses)


class _Course:
    """The attempts of one trial."""

    def __init__(self, plan: Plan, outcome: Outcome, folder: Path, env: Mapping[str, str]) -> None:
        self._plan = plan
        self._outcome = outcome
        self._state = folder / "state"
        self._log = folder / "run"
        self._env = env

    def run(self) -> None:
        """Attempt after attempt until everything asked for has completed."""
        blows = iter(self._plan.blows)
        for number in range(len(self._plan.blows) + MORE_ATTEMPTS):
            arguments = self._next_arguments(number)
            if arguments is None:
                return
            self._attempt(arguments, next(blows, None), number)
        if self._next_arguments(0) is not None:
            codes = [attempt.exit_code for attempt in self._outcome.attempts]
            self._outcome.problems.append(f"not completed after {len(codes)} attempts, exit codes {codes}")

    def _next_arguments(self, number: int) -> list[str] | None:
        """What a user would do now: run, resume, or nothing. What was never begun is run anew."""
        wanted = self._plan.workload.recut(number) if number else self._plan.workload
        runs = {run.pipeline: run for run in read_ledger(self._state)[0]}
        if not runs:
            return wanted.arguments()
        if any(run.status != "completed" for run in runs.values()):
            return ["--resume", *self._resumable(wanted, runs)]
        missing = tuple(name for name in wanted.pipelines if name not in runs)
        if missing:
            self._outcome.notes.append(f"not begun when the first process died: {', '.join(missing)}")
            return wanted.with_pipelines(missing).arguments()
        return None

    @staticmethod
    def _resumable(wanted: Workload, runs: Mapping[str, LedgerRun]) -> list[str]:
        return wanted.with_pipelines(tuple(name for name in wanted.pipelines if name in runs)).arguments()

    def _attempt(self, arguments: list[str], blow: Blow | None, number: int) -> None:
        log = self._log.with_name(f"run-{number + 1}")
        fixed = ["--state-dir", str(self._state), "--progress", "none", "--report", f"{log}.json"]
        env = {**self._env, **({VARIABLE: blow.point} if blow and blow.point else {})}
        resume = arguments[:1] if arguments[0] == "--resume" else []
        command = ["run", "pipelines.yaml", *fixed, *arguments[len(resume) :], *resume]
        started = time.monotonic()
        child = Child(command, log, env, self._plan.program)
        lasted_on = _strike(child, blow) if blow is not None else None
        code = child.wait(LONGEST_ATTEMPT)
        if code is None:
            self._outcome.problems.append(
                f"attempt {number + 1} hung for {LONGEST_ATTEMPT:g} s: {child.errors}"
            )
            code = child.kill()
        child.close()
        now = time.monotonic()
        after = round(now - lasted_on, 3) if lasted_on is not None else None
        self._outcome.attempts.append(
            Attempt(str(blow) if blow is not None else "", code, round(now - started, 3), after)
        )
        if code == STOPPED and after is not None and after > STOPS_WITHIN:
            self._outcome.problems.append(
                f"attempt {number + 1} went on for {after} s after the second signal"
            )
        if code not in _codes(blow):
            self._outcome.problems.append(f"attempt {number + 1} ended with {code}: {child.errors[-600:]}")


def _codes(blow: Blow | None) -> set[int]:
    """The exit codes that an attempt may have."""
    if blow is None:
        return {COMPLETED}
    codes = {COMPLETED, KILLED, DRAINED}
    if blow.after is not None or blow.point.count(":TERM") > 1:
        # a second signal stops it; so does a first one that comes before anybody listens
        codes |= {STOPPED, -signal.SIGTERM}
    return codes


def _strike(child: Child, blow: Blow) -> float | None:
    """Send the timed signals; the moment of the last one."""
    last = None
    for pause in (blow.after, blow.again):
        if pause is None or child.wait(pause) is not None:
            break
        child.send(blow.signal)
        last = time.monotonic()
    return last


class _Struck:
    """Kills the service at its moments, in a thread beside the attempts; what is left undone is not done."""

    def __init__(self, service: Service, kills: tuple[ServiceKill, ...]) -> None:
        self.count = 0
        self._service = service
        self._kills = sorted(kills, key=lambda kill: kill.after)
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="service-kills")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        started = time.monotonic()
        try:
            for kill in self._kills:
                if self._over.wait(max(0.0, started + kill.after - time.monotonic())):
                    return
                self._service.kill()
                self.count += 1
                time.sleep(kill.down)
                self._service.start()
        except (RuntimeError, TimeoutError, OSError) as error:
            self._failure = error
