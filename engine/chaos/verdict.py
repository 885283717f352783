"""The comparison of a disturbed run with the undisturbed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.state.records import RunStatus

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a disturbed run and the undisturbed one. `seed` reproduces it."""

    seed: int
    node: str
    what: str
    keys: Sequence[str] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:SHOWN]) + (", …" if len(self.keys) > SHOWN else "")
        count = f": {len(self.keys)} ({shown})" if self.keys else ""
        return f"seed {self.seed}: {self.node}: {self.what}{count}"


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """The outcome of all runs.

    Attributes:
        records: number of records read in the undisturbed run.
        seeds: seeds of the disturbed runs; only the last can differ, since a difference ends the trial.
        kills: total number of killed processes.
    """

    pipeline: str
    records: int
    seeds: Sequence[int]
    kills: int
    findings: Sequence[Finding]

    @property
    def ok(self) -> bool:
        """True when no disturbed run differs."""
        return not self.findings


@dataclass(slots=True)
class World:
    """The final state of one run, by node.

    Attributes:
        rows: digests of values by key, of scratch sinks.
        counted: digests of the records of sinks that were tested themselves.
        dead: nodes and keys of dead letters.
    """

    rows: dict[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    counted: dict[str, Counter[str]] = field(default_factory=dict)
    dead: set[tuple[str, str]] = field(default_factory=set)
    status: RunStatus = RunStatus.RUNNING
    error: str = ""


def differences(seed: int, calm: World, stormy: World) -> list[Finding]:
    """Return how a disturbed run differs from the undisturbed one."""
    found: list[Finding] = []

    def add(node: str, what: str, keys: Iterable[str]) -> None:
        if named := sorted(keys):
            found.append(Finding(seed, node, what, named))

    if stormy.status is not calm.status:
        found.append(Finding(seed, "run", f"{stormy.status} instead of {calm.status}: {stormy.error}"))
    for node, expected in calm.rows.items():
        rows = stormy.rows[node]
        both = expected.keys() & rows.keys()
        add(node, "missing", expected.keys() - rows.keys())
        add(node, "with keys that the undisturbed run does not have", rows.keys() - expected.keys())
        add(node, "with other values", (key for key in both if rows[key][-1] != expected[key][-1]))
        add(node, "there twice", (key for key in both if len(rows[key]) > len(expected[key])))
    for node, counted in calm.counted.items():
        there = stormy.counted[node]
        add(node, "missing or with other values", (counted - there).elements())
        add(node, "too many, or with other values", (there - counted).elements())
    add("dead letters", "missing", (key for _, key in calm.dead - stormy.dead))
    add("dead letters", "too many", (key for _, key in stormy.dead - calm.dead))
    return found
