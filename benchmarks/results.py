"""Results: all raw samples with everything needed to interpret them later; stored as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.model import Comparison, Goal

DIRECTORY = Path(__file__).parent / "results"

Status = Literal["complete", "partial", "invalid", "skipped"]
"""``partial``: stopped early, with valid samples. ``invalid``: the arms did not do the same work."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one arm: ``position`` is its position in the round; figures are in seconds, bytes, 1/s."""

    round: int
    position: int
    arm: str
    count: float
    checksum: str | None
    figures: dict[str, float]


@dataclass(slots=True)
class Result:
    """A benchmark's samples with its circumstances. ``arms`` maps every arm that ran to its goals."""

    name: str
    description: str
    unit: str
    metric: str
    comparison: Comparison
    reference: str
    arms: dict[str, list[Goal]]
    seed: int
    rounds: int
    quick: bool = False
    gc_enabled: bool = True
    status: Status = "complete"
    reason: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    machine: dict[str, object] = field(default_factory=dict)
    python: dict[str, object] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    commit: dict[str, object] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def by_round(self, arm: str, figure: str) -> dict[int, float]:
        """An arm's values of a figure, by round; empty when its samples do not carry it."""
        return {
            sample.round: sample.figures[figure]
            for sample in self.samples
            if sample.arm == arm and figure in sample.figures
        }


def store(results: Sequence[Result], path: Path) -> None:
    """Write one result as an object, several as a list."""
    # Imported here, so that its objects are not in the collector's way while measuring.
    from pydantic import TypeAdapter

    if len(results) == 1:
        content = TypeAdapter(Result).dump_json(results[0], indent=1)
    else:
        content = TypeAdapter(list[Result]).dump_json(list(results), indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content + b"\n")


def load(path: Path) -> list[Result]:
    """Read a file written by :func:`store`. Raises OSError, and ValueError if it is not a result."""
    from pydantic import TypeAdapter

    found: Result | list[Result] = TypeAdapter(Result | list[Result]).validate_json(path.read_bytes())
    return found if isinstance(found, list) else [found]
