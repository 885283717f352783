"""Measure how late the running event loop serves a periodic timer."""

from __future__ import annotations

import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from benchmarks.model import Work
from benchmarks.statistics import percentile

INTERVAL = 0.001


class LagRecorder:
    """Delays of a timer that is due every ``interval`` seconds.

    A stall delays every tick that fell into it and each of them counts: timing only the wake-ups would record
    one late tick for a long stall and hide how long the loop was deaf ("coordinated omission").
    """

    def __init__(self, interval: float, start: float) -> None:
        self._interval = interval
        self._start = start
        self._delays = array("d")

    @property
    def delays(self) -> tuple[float, ...]:
        """The delay of every tick so far, in seconds."""
        return tuple(self._delays)

    @property
    def next_due(self) -> float:
        """When the next tick is due, on the clock that ``start`` was taken from."""
        # A product, not a running sum, so that rounding does not drift over a long run.
        return self._start + (len(self._delays) + 1) * self._interval

    def wake(self, now: float) -> None:
        """Record every tick that was due by ``now``."""
        while (due := self.next_due) <= now:
            self._delays.append(now - due)

    def figures(self) -> dict[str, float]:
        """``lag_p50``, ``lag_p99``, ``lag_p999`` and ``lag_max`` in seconds; empty before the first tick."""
        if not self._delays:
            return {}
        return {
            "lag_p50": percentile(self._delays, 50),
            "lag_p99": percentile(self._delays, 99),
            "lag_p999": percentile(self._delays, 99.9),
            "lag_max": max(self._delays),
        }


@asynccontextmanager
async def loop_lag(
    interval: float = INTERVAL,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
) -> AsyncIterator[LagRecorder]:
    """Run a timer of ``interval`` seconds during the block and record how late the loop serves it.

    asyncio rounds its waits up to whole milliseconds, so an idle loop is late too: take :func:`idle` as the
    control, and the difference to it as the figure.
    """
    recorder = LagRecorder(interval, clock())

    async def tick() -> None:
        while True:
            await sleep(max(0.0, recorder.next_due - clock()))
            recorder.wake(clock())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        try:
            yield recorder
            # A body that never let the timer run ends with ticks overdue; they count as well.
            recorder.wake(clock())
        finally:
            tasks.cancel_scope.cancel()


async def idle(seconds: float, interval: float = INTERVAL) -> Work:
    """The idle control: the same timer on a loop that does nothing else for ``seconds``."""
    async with loop_lag(interval) as recorder:
        await anyio.sleep(seconds)
    return Work(count=0, checksum=None, figures=recorder.figures())
