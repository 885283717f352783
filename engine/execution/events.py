"""What the engine says about its runs, as values; whoever owns the process decides where they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Observer", "RunEvent", "null_observer"]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One stage of a run has begun or ended. Never about a single record, never with a record's content.

    `level` is debug, info, warning or error.
    """

    action: str
    message: str
    level: str
    pipeline: str
    run_id: str
    numbers: Mapping[str, int] = field(default_factory=dict)


Observer = Callable[[RunEvent], None]


def null_observer(event: RunEvent) -> None:
    """The default observer: ignore every event."""
