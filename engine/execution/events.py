"""Events of runs, as values; the owner of the process decides where they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Observer", "RunEvent", "null_observer"]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """The start or end of a stage of a run; never about a single record, never with its content.

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
