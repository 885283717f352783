"""The parts of a benchmark: arms, their work, goals and the comparison."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Comparison = Literal["ratio", "difference"]
"""How an arm is set against the reference within a round: ``arm / reference`` or ``arm - reference``."""

CONTROL = "control"
"""Name of the A/A arm that the harness adds: the reference, run a second time in every round."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one run of an arm.

    ``count`` is in the benchmark's unit (records, mostly). ``checksum`` represents the result at the sink and
    has to be the same for every arm of a benchmark. ``figures`` are further measurements by name, in seconds,
    bytes or units a second (see :mod:`benchmarks.figures`), which override the harness's measurements.
    """

    count: float
    checksum: str | None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished child process: exit code, output, and resource usage.

    ``wall`` is the time from the start of the process to its end, ``first_output`` to its first byte on
    standard output (None: it wrote none), both in seconds; ``cpu`` is user plus system time in seconds
    of the process and the children it has waited for. ``peak_rss`` (bytes) is the largest of those processes,
    ``own_peak_rss`` the process alone, sampled every 20 ms (None: it ended before the first sample).
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    wall: float
    cpu: float
    peak_rss: int
    own_peak_rss: int | None
    first_output: float | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A command to measure, and ``work``, which reads what it did from the finished process.

    ``env`` is added to the environment of the benchmark run. A non-zero exit code fails the sample.
    """

    argv: Sequence[str]
    work: Callable[[Completed], Work]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


InProcess = Callable[[], Work] | Callable[[], Awaitable[Work]]
"""A function or coroutine function; a coroutine runs on a fresh event loop, whose start is not timed."""

Command = Callable[[Path], AbstractContextManager[Launch]]
"""Prepares a command in its own empty directory; setup around the command is not timed."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach: ``ratio`` or ``difference`` (median of pairs) or any figure of a sample (median).

    Times are in seconds, sizes in bytes. Goals are reported as met or missed and never fail a run.
    """

    figure: str
    relation: Literal["<=", ">="]
    value: float

    def met_by(self, value: float) -> bool:
        """Whether ``value`` reaches the goal."""
        compare = operator.le if self.relation == "<=" else operator.ge
        return bool(compare(value, self.value))


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing the work: either ``call`` (in this process) or ``command`` (another process).

    ``checked=False`` is for arms that do no comparable work, such as an idle loop or bare Python; every other
    arm has to give a checksum. ``unavailable`` says why the arm cannot run here, or None when it can.
    """

    name: str
    call: InProcess | None = None
    command: Command | None = None
    goals: Sequence[Goal] = ()
    checked: bool = True
    unavailable: Callable[[], str | None] | None = None

    def __post_init__(self) -> None:
        if (self.call is None) == (self.command is None):
            raise ValueError(f"arm {self.name!r} needs exactly one of call and command")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Arms that do equal work, one of which is the reference for the others.

    ``metric`` names the figure that is compared, ``comparison`` how. ``pairs`` counted rounds are run
    unless the command line says otherwise; 40 are needed to tell 5 % apart on a shared machine. ``libraries``
    are additional distributions whose versions the result records.
    """

    name: str
    description: str
    arms: Sequence[Arm]
    reference: str
    unit: str = "records"
    metric: str = "wall"
    comparison: Comparison = "ratio"
    pairs: int = 40
    libraries: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"benchmark {self.name!r} has two arms of one name")
        if CONTROL in names:
            raise ValueError(f"{CONTROL!r} is the name of the A/A arm that the harness adds")
        if self.reference not in names:
            raise ValueError(f"benchmark {self.name!r} has no arm {self.reference!r} to be its reference")

    @property
    def reference_arm(self) -> Arm:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.reference)


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of benchmarks: ``quick`` sizes finish in seconds and prove nothing."""

    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """Return ``full`` or ``quick``, depending on the scale."""
        return quick if self.quick else full
