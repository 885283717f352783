"""Events of runs, as values; the owner of the process decides where they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class RunEvent:
    """The start or end of a stage of a run. Never concerns a single record or contains its data.

    `level` is debug, info, warning or error.
    """

    action: str
    message: str
    level: str
    pipeline: str
    run_id: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


Observer = Callable[[RunEvent], None]


def null_observer(event: RunEvent) -> None:
    """The default observer: ignore every event."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """The run whose code is executing, and the observer of its messages."""

    observer: Observer
    pipeline: str
    run_id: str


_SPEAKER: Final[ContextVar[Speaker | None]] = ContextVar("odw_speaker", default=None)


def speaker() -> Speaker | None:
    """Return the run that the caller belongs to; None outside of runs."""
    return _SPEAKER.get()


@contextmanager
def speaking(who: Speaker) -> Iterator[None]:
    """Attribute log messages of the user's code in this block, its tasks and its threads to this run."""
    token = _SPEAKER.set(who)
    try:
        yield
    finally:
        _SPEAKER.reset(token)
