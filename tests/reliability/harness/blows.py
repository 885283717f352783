"""Where and when processes are struck, all of it drawn from a seed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from tests.reliability.harness.children import ENGINE
from tests.reliability.harness.proxy import Faults
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload

__all__ = ["POINTS", "Blow", "Plan", "ServiceKill", "drawn"]

POINTS: Mapping[str, tuple[int, int]] = {
    "splits_listed": (1, 1),
    "splits_stored": (1, 1),
    "batch_read": (10, 6),
    "packed": (0, 15),
    "model_paid": (0, 15),
    "batch_written": (10, 16),
    "ledger_committing": (3, 4),
    "ledger_committed": (3, 4),
    "dead_letter_stored": (10, 4),
    "dead_letter_forwarded": (0, 4),
    "books_closed": (1, 1),
}
"""How often a first attempt comes by each point: in a simulated pipeline, in that of the documents."""

WORKLOADS = (PIPELINES, PIPELINES, SIMULATED, ("blobs",), ("logs",), ("events",), PIPELINES[-1:])


@dataclass(frozen=True)
class Blow:
    """What happens to one attempt of a run: a fault point, a signal after some seconds, or both.

    Args:
        point: for `engine.faultpoints`.
        after: seconds from the start of the process to `signal`; None sends none.
        again: seconds from that signal to the same one again.
    """

    point: str = ""
    after: float | None = None
    signal: signal.Signals = signal.SIGKILL
    again: float | None = None

    @property
    def kills(self) -> bool:
        """Whether it ends in SIGKILL."""
        last = self.point.rpartition(",")[2]
        return (self.after is not None and self.signal is signal.SIGKILL) or bool(
            last and last.count(":") < 2
        )

    def __str__(self) -> str:
        timed = f"{self.signal.name} after {self.after:.2f} s" if self.after is not None else ""
        more = f"again after {self.again:.2f} s" if self.again is not None else ""
        return ", ".join(part for part in (timed, more, self.point) if part)


@dataclass(frozen=True)
class ServiceKill:
    """SIGKILL to the ingest service `after` seconds from the trial's start; it is back after `down`."""

    after: float
    down: float


@dataclass(frozen=True)
class Plan:
    """One trial: what runs, and what strikes its attempts and the service.

    Args:
        program: with which engine.
        wires: what goes wrong on the way to `service`, `model` and `lake`.
    """

    name: str
    workload: Workload
    blows: tuple[Blow, ...] = ()
    service: tuple[ServiceKill, ...] = ()
    program: tuple[str, ...] = ENGINE
    wires: Mapping[str, Faults] = field(default_factory=dict)


def drawn(seed: int, number: int, *, service: bool | None = None) -> Plan:
    """Trial `number` of the series with this seed.

    Args:
        service: kill the service as well; None draws that (one in five).
    """
    random = Random(f"reliability/{seed}/{number}")
    workload = Workload(
        random.choice(WORKLOADS), seed=seed * 1000 + number if random.random() < 0.25 else None
    )
    longest = _longest(workload)
    blows = tuple(_blow(random, workload, longest) for _ in range(random.choice((1, 1, 2, 3))))
    with_service = random.random() < 0.2 if service is None else service
    kills = (ServiceKill(random.uniform(0.3, longest), random.uniform(0.0, 1.0)),) if with_service else ()
    return Plan(f"{seed}/{number}", workload, blows, kills)


def _blow(random: Random, workload: Workload, longest: float) -> Blow:
    form = random.random()
    if form < 0.25:
        return Blow(after=random.uniform(0.1, longest))
    if form < 0.40:
        return _struck_while_draining(random, workload)
    if form < 0.45:
        moment = random.uniform(0.5, longest)
        return Blow(
            after=moment, signal=signal.SIGTERM, again=random.choice((None, random.uniform(0.0, 0.3)))
        )
    times = {name: _times(name, workload) for name in POINTS}
    name = random.choice([name for name, count in times.items() if count])
    return Blow(f"{name}:{random.randint(1, times[name])}")


def _longest(workload: Workload) -> float:
    """About how many seconds an undisturbed run takes on two cores; random moments lie within."""
    return 2.8 if PIPELINES[-1] in workload.pipelines else 0.8 + 0.2 * len(workload.pipelines)


def _times(point: str, workload: Workload) -> int:
    simulated, documents = POINTS[point]
    return sum(simulated if name in SIMULATED else documents for name in workload.pipelines)


def _struck_while_draining(random: Random, workload: Workload) -> Blow:
    first = random.randint(1, _times("batch_read", workload))
    if random.random() < 0.5:
        return Blow(f"batch_read:{first}:TERM,draining:{random.randint(1, len(workload.pipelines))}")
    name = random.choice(("batch_written", "ledger_committing", "dead_letter_stored", "books_closed"))
    return Blow(f"batch_read:{first}:TERM,{name}:{random.randint(1, _times(name, workload))}")
