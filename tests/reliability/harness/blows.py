"""Faults to inject into the processes of a trial, as data; `drawing` draws them from a seed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.reliability.harness.children import ENGINE
from tests.reliability.harness.proxy import Faults
from tests.reliability.harness.workload import Workload

__all__ = ["Blow", "Plan", "ServiceKill"]


@dataclass(frozen=True)
class Blow:
    """What happens to one attempt of a run: a fault point, a signal after some time, or both.

    Args:
        point: for `engine.fault_injection`.
        after: seconds to `signal`, on a machine that does nothing else, from the start of the process, or of
            its first run when the signal is none that kills; None sends none.
        again: seconds from the moment that the engine follows that signal to the same one again.
        frozen: the ingest service stands still (SIGSTOP) from before the signal until the process has ended,
            so that nothing can be delivered meanwhile.
    """

    point: str = ""
    after: float | None = None
    signal: signal.Signals = signal.SIGKILL
    again: float | None = None
    frozen: bool = False

    @property
    def kills(self) -> bool:
        """Whether it ends in SIGKILL."""
        last = self.point.rpartition(",")[2]
        return (self.after is not None and self.signal is signal.SIGKILL) or bool(
            last and last.count(":") < 2
        )

    @property
    def waits_for_a_run(self) -> bool:
        """Whether its time begins with the first run: before that it handles no signals."""
        return self.signal is not signal.SIGKILL

    @property
    def place(self) -> str:
        """Where it strikes: a fault point, `draining` for what follows a first signal, or `any moment`."""
        if self.after is not None:
            return "any moment"
        return "draining" if "," in self.point else self.point.partition(":")[0]

    def __str__(self) -> str:
        timed = f"{self.signal.name} after {self.after:.2f} s" if self.after is not None else ""
        more = f"again after {self.again:.2f} s" if self.again is not None else ""
        still = "service stands still" if self.frozen else ""
        return ", ".join(part for part in (timed, more, still, self.point) if part)


@dataclass(frozen=True)
class ServiceKill:
    """SIGKILL to the ingest service.

    Args:
        point: one of `engine.fault_injection.SERVICE_FAULT_POINTS` with a count; "" strikes by time.
        after: seconds, on a machine that does nothing else, from the moment that the service is up and there
            is something for it to do.
        down: seconds until it is started again.
        takes_engine: the engine's process is killed in the same moment.
    """

    point: str = ""
    after: float = 0.0
    down: float = 0.0
    takes_engine: bool = False

    @property
    def place(self) -> str:
        """Where it strikes."""
        return self.point.partition(":")[0] or "any moment"

    def __str__(self) -> str:
        return self.point or f"SIGKILL after {self.after:.2f} s"


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
