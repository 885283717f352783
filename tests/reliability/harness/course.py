"""The attempts of one trial: a user's actions, and the faults of each attempt."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.fault_injection import VARIABLE
from tests.reliability.harness.blows import Blow, Plan
from tests.reliability.harness.children import LOOK_EVERY, Child, Service
from tests.reliability.harness.evidence import EngineState, LedgerRun, read_service, read_state
from tests.reliability.harness.outcome import (
    COMPLETED,
    DRAINED,
    KILLED,
    STOPPED,
    Attempt,
    Outcome,
    PaidSoFar,
)
from tests.reliability.harness.verdict import left_in_flight
from tests.reliability.harness.workload import Workload
from tests.servers.warm_start import is_warm

__all__ = ["Course"]

MORE_ATTEMPTS = 4
MAX_ATTEMPT = 180.0  # seconds, or as many times more as this machine is slower
SAYS_WITHIN = 300.0
DRAIN_LIMIT = "2m"  # what a drain gives up may be delivered and not counted: 30 s may pass under load
STOPS_WITHIN = 20.0  # seconds from a second signal to the end of the process: less than a drain may take
# seconds from the start of a process to its first run, with nothing else to do: from cold, and warm
QUIET_START = {False: 0.4, True: 0.1}
STARTED = '"action": "run_started"'
READING = '"message": "source '
FOLLOWED = "draining: "
"""What an engine logs when its first run begins, a source has read records, and it follows a signal."""


class Course:
    """Attempt after attempt until everything that a plan asks for has completed.

    Args:
        env: where the outside world is.
        documents_paid: how many documents the model has been paid for.
        pace: how much slower this machine is than one that does nothing else.

    Attributes:
        child: the engine's process, while there is one.
    """

    def __init__(
        self,
        plan: Plan,
        outcome: Outcome,
        folder: Path,
        env: Mapping[str, str],
        service: Service,
        *,
        documents_paid: Callable[[], int],
        pace: float,
    ) -> None:
        self.child: Child | None = None
        self._plan = plan
        self._outcome = outcome
        self._folder = folder
        self._state_dir = folder / "state"
        self._env = env
        self._service = service
        self._documents_paid = documents_paid
        self._pace = pace

    @property
    def begun(self) -> bool:
        """Whether an engine has come so far as to keep a ledger."""
        return (self._state_dir / "state.sqlite3").exists()

    def run(self) -> None:
        """Run the attempts; the outcome lists problems."""
        self._outcome.paid_so_far.append(PaidSoFar(self._documents_paid(), 0))
        blows = iter(self._plan.blows)
        state = EngineState()
        for number in range(len(self._plan.blows) + len(self._plan.service) + MORE_ATTEMPTS):
            arguments = self._next_arguments(number, state)
            if arguments is None:
                return
            self._attempt(arguments, next(blows, None), number)
            state = read_state(self._state_dir)
            self._look(state)
        if self._next_arguments(0, state) is not None:
            codes = self._outcome.codes
            self._outcome.problems.append(f"not completed after {len(codes)} attempts, exit codes {codes}")

    def _next_arguments(self, number: int, state: EngineState) -> list[str] | None:
        """What a user would do now: run, resume, or nothing. What was never started is run."""
        wanted = self._plan.workload.recut(number) if number else self._plan.workload
        runs = {run.pipeline: run for run in state.runs}
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
        log = self._folder / f"run-{number + 1}"
        fixed = ["--state-dir", str(self._state_dir), "--progress", "none", "--report", f"{log}.json"]
        fixed += ["--drain-limit", DRAIN_LIMIT]
        env = {**self._env, **({VARIABLE: blow.point} if blow and blow.point else {})}
        resume = arguments[:1] if arguments[0] == "--resume" else []
        command = ["run", "pipelines.yaml", *fixed, *arguments[len(resume) :], *resume]
        started = time.monotonic()
        self.child = child = Child(command, log, env, self._plan.program)
        struck = self._strike(child, blow) if blow is not None else None
        patience = MAX_ATTEMPT * max(1.0, self._pace)
        code = child.wait(patience)
        now = time.monotonic()
        if blow is not None and blow.frozen:
            self._service.thaw()
        if code is None:
            self._problem(number, f"hung for {patience:g} s: {child.errors}")
            code = child.kill()
        child.close()
        after = round(now - struck, 3) if struck is not None else None
        place = blow.place if blow is not None else ""
        self._outcome.attempts.append(
            Attempt(str(blow or ""), place, code, round(now - started, 3), after_signal=after)
        )
        if code == STOPPED and after is not None and after > STOPS_WITHIN * max(1.0, self._pace):
            self._problem(number, f"went on for {after} s after the second signal")
        if code not in self._codes(blow):
            self._problem(number, f"ended with {code}: {child.errors[-600:]}")

    def _problem(self, number: int, text: str) -> None:
        self._outcome.problems.append(f"attempt {number + 1} {text}")

    def _codes(self, blow: Blow | None) -> set[int]:
        """The exit codes that an attempt may have."""
        codes = {COMPLETED}
        if any(kill.takes_engine for kill in self._plan.service):
            codes.add(KILLED)
        if blow is not None:
            codes |= {KILLED, DRAINED}
            if blow.after is not None or blow.point.count(":TERM") > 1:
                # a second signal stops it; so does a first one that comes before anybody listens
                codes |= {STOPPED, -signal.SIGTERM}
        return codes

    def _strike(self, child: Child, blow: Blow) -> float | None:
        """Send the timed signals; the moment of the last one."""
        if blow.after is None:
            return None
        pace, began = self._pace, time.monotonic()
        if blow.waits_for_a_run:
            if not self._says(child, STARTED):
                return None
            pace = self._pace = (time.monotonic() - began) / QUIET_START[is_warm()]
        if child.wait(blow.after * pace) is not None:
            return None
        if blow.frozen:
            self._service.freeze()
            if not self._says(child, READING):  # what it has read cannot be delivered from here on
                return None
        child.send(blow.signal)
        if blow.again is not None and self._says(child, FOLLOWED) and child.wait(blow.again) is None:
            child.send(blow.signal)
        return time.monotonic()

    @staticmethod
    def _says(child: Child, text: str) -> bool:
        """Wait until the process has written this to standard error; False when it ends instead."""
        until = time.monotonic() + SAYS_WITHIN
        while text not in child.errors and time.monotonic() < until:
            if child.wait(LOOK_EVERY) is not None:
                return False
        return True

    def _look(self, state: EngineState) -> None:
        """What can be seen between two attempts only."""
        codes = self._outcome.codes
        interrupted = codes[-1] not in (COMPLETED, DRAINED)
        self._outcome.paid_so_far.append(PaidSoFar(self._documents_paid(), state.journaled, interrupted))
        if codes[-1] == DRAINED and set(codes) <= {COMPLETED, DRAINED} and not self._plan.service:
            # without an interruption before it, what the ledger counts is all that can be there
            rows = read_service(self._service.url)
            self._outcome.problems += [
                f"drained by attempt {len(codes)}: {line}" for line in left_in_flight(state, rows)
            ]
