"""The outcome of a trial."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from tests.reliability.harness.workload import Workload

__all__ = ["COMPLETED", "DRAINED", "KILLED", "STOPPED", "Attempt", "Outcome", "PaidSoFar"]

COMPLETED, DRAINED, STOPPED = 0, 6, 128 + signal.SIGTERM
KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Attempt:
    """One process: what was meant to happen to it, how it ended, and how long it took.

    `place` is where the blow was meant to strike; `after_signal` has the seconds from the last signal on.
    """

    blow: str
    place: str
    exit_code: int
    seconds: float
    after_signal: float | None = None

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.exit_code == KILLED


@dataclass(frozen=True)
class PaidSoFar:
    """Documents that the model had been paid for, and answers in the journal, when a process had ended.

    `interrupted`: it had no time to take what it was asking for.
    """

    documents: int
    journaled: int
    interrupted: bool = False


@dataclass
class Outcome:
    """The outcome of a trial.

    `problems` is empty when all is well; `notes` are worth a look. `service_struck` has the places at which
    the service was killed while there was something to do for it. `paid_again` counts the documents that the
    model was paid for more than undisturbed.
    """

    name: str
    workload: Workload
    attempts: list[Attempt] = field(default_factory=list)
    service_struck: list[str] = field(default_factory=list)
    wire_faults: dict[str, int] = field(default_factory=dict)
    exchanges: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    paid_so_far: list[PaidSoFar] = field(default_factory=list)
    paid_again: int = 0
    seconds: float = 0.0

    @property
    def codes(self) -> list[int]:
        """The exit codes of the attempts."""
        return [attempt.exit_code for attempt in self.attempts]

    @property
    def interruptions(self) -> int:
        """How often one ended before what it had begun was delivered."""
        return sum(code not in (COMPLETED, DRAINED) for code in self.codes)

    @property
    def struck(self) -> list[str]:
        """The places at which an engine process died of SIGKILL."""
        return [attempt.place for attempt in self.attempts if attempt.was_killed]
