"""Workers and a submission against a Temporal server, as separate processes."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from engine.errors import RunNotFoundError
from engine.fault_injection import VARIABLE
from engine.state import Lease, open_store
from tests.reliability.harness.children import LOOK_EVERY, Child
from tests.reliability.harness.gate import CLOSED, NOTES, notes

__all__ = ["Fleet", "TrialError", "Worker"]

STARTED = " started as workflow "
PATIENCE = 300.0  # seconds for anything here on a loaded machine; nothing waits so long in vain


class TrialError(Exception):
    """Something did not come about, or a process ended that should not have."""


class Worker:
    """`python -m engine worker`, with its own gate.

    Attributes:
        mortal: it is expected to end, so its end is no failure.
    """

    def __init__(self, name: str, child: Child, gate: Path, notes: Path, *, slots: int, mortal: bool) -> None:
        self.name = name
        self.child = child
        self.slots = slots
        self.mortal = mortal
        self._gate = gate
        self._notes = notes

    @property
    def pid(self) -> int:
        """Its process."""
        return self.child.process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.child.wait(0)

    @property
    def chunks(self) -> int:
        """Of how many chunks something has arrived at its gate."""
        return len({(note.run, note.chunk) for note in notes(self._notes)})

    @property
    def is_busy(self) -> bool:
        """Return whether all of its slots have chunks, so that it requests no more."""
        return self.chunks >= self.slots

    def open(self) -> None:
        """Release held records, and pass on all later ones."""
        self._gate.unlink(missing_ok=True)


class Fleet:
    """All processes of one durable run; none of them outlives the block.

    Args:
        file: the pipelines.
        folder: for output, notes and gates.
        state: where runs are remembered: a directory, or the address of a database.
        env: where the outside world is, the Temporal server included.
    """

    def __init__(self, file: Path, folder: Path, state: Path | str, env: Mapping[str, str]) -> None:
        self.workers: list[Worker] = []
        self.folder = folder
        self.state = state
        self._file = file
        self._queue = f"q-{uuid.uuid4().hex[:12]}"
        self._env = dict(env)
        if isinstance(state, str):
            self._env["ODW_STATE"] = state  # its password is for no list of processes
        self._submission: Child | None = None
        self._started = 0

    def __enter__(self) -> Self:
        (self.folder / "gates").mkdir(parents=True, exist_ok=True)
        (self.folder / "notes").mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children = [worker.child for worker in self.workers]
        for child in [*children, *([self._submission] if self._submission is not None else [])]:
            child.kill()

    def worker(
        self, *, closed: bool = False, slots: int = 2, point: str = "", mortal: bool = False
    ) -> Worker:
        """Start one.

        Args:
            closed: it holds what comes, until it is opened or stopped.
            point: the fault point at which it dies.
        """
        self._started += 1
        name = f"worker-{self._started}"
        gate, noted = self.folder / "gates" / name, self.folder / "notes" / f"{name}.jsonl"
        if closed:
            gate.touch()
        env = {**self._env, CLOSED: str(gate), NOTES: str(noted), **({VARIABLE: point} if point else {})}
        command = ["worker", str(self._file), *self._common, "--slots", str(slots)]
        child = Child(command, self.folder / name, env)
        worker = Worker(name, child, gate, noted, slots=slots, mortal=mortal or bool(point))
        self.workers.append(worker)
        return worker

    def submit(self, *, heartbeat: int, chunk_splits: int) -> None:
        """Start the runs, with somebody who waits for their end."""
        sizes = ["--shards", "2", "--window", "6", "--chunk-splits", str(chunk_splits)]
        command = ["submit", str(self._file), *self._common, *sizes, "--heartbeat", str(heartbeat)]
        command += ["--wait", "--one-machine"]
        self._submission = Child(command, self.folder / "submit", self._env)

    @property
    def runs(self) -> dict[str, str]:
        """The workflows that were started, by their runs."""
        lines = [line.split() for line in self._waiting.output.splitlines() if STARTED in line]
        return {words[2]: words[-1] for words in lines}

    @property
    def over(self) -> bool:
        """Return whether the waiting process has received the outcome of the runs."""
        return self._waiting.wait(0) is not None

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something.

        Raises:
            TrialError: it did not come about, or a worker has ended that should not have.
        """
        deadline = time.monotonic() + PATIENCE
        while not reached():
            for worker in self.workers:
                code = worker.ended
                if code is not None and not worker.mortal:
                    raise TrialError(f"{worker.name} ended early with {code}: {worker.child.errors[-800:]}")
            if time.monotonic() > deadline:
                said = self._submission.errors[-800:] if self._submission is not None else ""
                raise TrialError(f"{what}: not within {PATIENCE:g} s: {said}")
            time.sleep(LOOK_EVERY)

    def until_busy(self, worker: Worker) -> None:
        """Wait until a closed worker has its hands full; raises `TrialError` as `until` does."""
        self.until(lambda: worker.is_busy, f"{worker.slots} chunks for {worker.name}")

    def conclude(self) -> None:
        """Open every gate, wait until the runs are over, and stop the workers.

        Raises:
            TrialError: a run did not complete, or a process ended as it should not.
        """
        for worker in self.workers:
            worker.open()
        self.until(lambda: self.over, "the end of the runs")
        code = self._waiting.wait(0)
        if code:
            said = f"{self._waiting.output[-600:]} {self._waiting.errors[-600:]}"
            raise TrialError(f"submit ended with {code}: {said}")
        for worker in list(self.workers):
            self.stop(worker)

    def stop(self, worker: Worker) -> None:
        """SIGTERM, and wait for its end.

        Raises:
            TrialError: it does not end, or not well.
        """
        worker.mortal = True
        if worker.ended is None:
            worker.child.send(signal.SIGTERM)
            self.until(lambda: worker.ended is not None, f"the end of {worker.name}")
            if code := worker.ended:
                raise TrialError(f"{worker.name} ended with {code}: {worker.child.errors[-800:]}")
        worker.child.close()
        self.workers.remove(worker)

    def kill(self, worker: Worker) -> None:
        """SIGKILL."""
        worker.mortal = True
        worker.child.kill()

    def leases(self, worker: Worker | None = None) -> list[Lease]:
        """The parts of the runs that are being worked on, by this worker only, if one is given."""
        found = anyio.run(_leases, self.state, list(self.runs))
        return [lease for lease in found if worker is None or f":{worker.pid}:" in lease.holder]

    @property
    def redone(self) -> int:
        """How many records have come by more than once."""
        times = Counter[tuple[str, str]]()
        for file in (self.folder / "notes").iterdir():
            times.update((note.run, key) for note in notes(file) for key in note.keys)
        return times.total() - len(times)

    @property
    def _waiting(self) -> Child:
        if self._submission is None:
            raise TrialError("nothing was submitted")
        return self._submission

    @property
    def _common(self) -> Sequence[str]:
        where = ["--state-dir", str(self.state)] if isinstance(self.state, Path) else []
        return ["--queue", self._queue, *where]


async def _leases(state: Path | str, runs: Sequence[str]) -> list[Lease]:
    found: list[Lease] = []
    async with open_store(state) as store:  # which is made here when no worker has made it yet
        for run in runs:
            with suppress(RunNotFoundError):  # it has not begun yet
                found += await store.leases(run)
    return found
