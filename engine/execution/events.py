"""What the engine says about its runs, as values; whoever owns the process decides where they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Observer", "Stage", "silent"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run has begun or ended. Never about a single record, never with a record's content.

    `level` is debug, info, warning or error.
    """

    action: str
    message: str
    level: str
    pipeline: str
    run_id: str
    numbers: Mapping[str, int] = field(default_factory=dict)


Observer = Callable[[Stage], None]


def silent(stage: Stage) -> None:
    """The default observer: nothing is said."""
