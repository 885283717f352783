"""An exchangeable clock: the system's, or a scripted one in tests (`engine.testing`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import anyio

__all__ = ["Clock", "FrozenClock", "SystemClock", "timestamp"]


class Clock(Protocol):
    """The engine's interface to time."""

    def now(self) -> datetime:
        """Return the wall-clock time, timezone-aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences are meaningful."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a cancellation point."""


class SystemClock:
    """The machine's own clock; `monotonic` is the running event loop's."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class FrozenClock(SystemClock):
    """A clock whose wall-clock time is fixed; sleeping takes real time."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def timestamp(moment: datetime) -> str:
    """Format a moment as ISO 8601 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
