"""Time as a value that can be swapped: the system's, or a scripted one in tests (`engine.testing`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import anyio

__all__ = ["Clock", "SystemClock", "timestamp"]


class Clock(Protocol):
    """What the engine needs to know about time."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; a cancellation point."""
        ...


class SystemClock:
    """The machine's own clock; `monotonic` is the running event loop's."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def timestamp(moment: datetime) -> str:
    """A moment as ISO 8601 text in UTC with milliseconds, the one form that leaves the engine."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
