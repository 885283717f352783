"""Run the work of an activity with heartbeats and time limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from temporalio import activity

from engine.errors import StalledError
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.temporal.heartbeat import Cursor, OutageTimer, Progress, beat_while_moving, progress_of
from engine.temporal.metrics import ChunkMeter
from engine.temporal.trouble import TroubleWatch

TIME_TO_STOP = 0.8
"""Share of an attempt's time after which an unfinished chunk is handed back instead of being cut off."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits in seconds.

    Args:
        beat_every: maximum between two heartbeats.
        stall_after: time without progress until work is stopped.
        give_up_after: time until stalled work that does not stop is abandoned.
    """

    beat_every: float = 5.0
    stall_after: float = 600.0
    give_up_after: float = 30.0

    def heartbeat(
        self,
        look: Callable[[], Progress],
        beat: Callable[[Mapping[str, Any]], None],
        stop: Callable[[StalledError], None],
    ) -> Coroutine[Any, Any, None]:
        """Return what beats often enough for the server's heartbeat timeout, see `beat_while_moving`."""
        limit = activity.info().heartbeat_timeout
        every = min(self.beat_every, limit.total_seconds() / 4) if limit else self.beat_every
        return beat_while_moving(look, beat, stop, every=every, stall_after=self.stall_after)


async def listed(run: Run, node: str, patience: Patience, trouble: TroubleWatch) -> int:
    """List a source while pages arrive, and return its number of splits.

    Cancels itself when the worker stops while the source is unavailable, since it would not finish.

    Raises:
        StalledError: no page arrived for too long without an outage.
        OutageError: the source was unavailable for longer than its limit.
        EngineError: the source cannot be listed.
    """
    found, stalled = 0, list[StalledError]()

    def note(count: int) -> None:
        nonlocal found
        found = count

    def stop(error: StalledError) -> None:
        stalled.append(error)
        work.cancel()

    def look() -> Progress:
        away = run.snapshot().stuck is not None
        if away and activity.is_worker_shutdown():
            work.cancel()
        return Progress((found,), Cursor(found, trouble=trouble.current), node, excused=away)

    work = asyncio.ensure_future(run.list_splits(node, on_page=note))
    async with _running_alongside(patience.heartbeat(look, activity.heartbeat, stop), trouble.watch()):
        try:
            return await work
        except asyncio.CancelledError:
            if stalled:
                raise stalled[0] from None
            raise


async def seen_through(run: Run, patience: Patience, outage: OutageTimer, trouble: TroubleWatch) -> RunReport:
    """Execute a run until it ends; if cancelled, first deliver what was read.

    Args:
        outage: observes the run, and may end it.
        trouble: observes the run, and reports its trouble.

    Raises:
        StalledError: there was no progress for too long, and the run did not end when stopped.
    """
    work = asyncio.ensure_future(run.wait())
    stalled: asyncio.Future[StalledError] = asyncio.get_running_loop().create_future()
    either: list[asyncio.Future[Any]] = [work, stalled]
    meter = ChunkMeter(activity.metric_meter(), run.plan.pipeline)

    def beat(cursor: Mapping[str, Any]) -> None:
        activity.heartbeat(cursor)
        meter.update(run.snapshot())

    def stop(error: StalledError) -> None:
        run.abort(error)
        stalled.set_result(error)

    def look() -> Progress:
        snapshot = run.snapshot()
        error = outage.look(snapshot)
        if error is not None:
            run.abort(error)
        return progress_of(snapshot, trouble.current)

    heartbeat = patience.heartbeat(look, beat, stop)
    async with _running_alongside(heartbeat, trouble.watch(), _drain_in_time(run)):
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if stalled.done():
                await asyncio.wait({work}, timeout=patience.give_up_after)
            if work.done():
                report = work.result()
                if report.ok:
                    await trouble.end()
                return report
        except asyncio.CancelledError:
            if activity.is_worker_shutdown():
                # the drain took too long; undelivered records are read again from the position in the ledger
                run.cancel()
                return await work
            run.drain()
            await work
            raise
        finally:
            outage.look(run.snapshot())  # count records delivered while stopping, too
            meter.update(run.snapshot())
    run.abandon()
    raise stalled.result()


async def _drain_in_time(run: Run) -> None:
    """Stop reading when the worker is stopping, or the attempt's time is nearly up."""
    limit = activity.info().start_to_close_timeout
    with anyio.move_on_after(limit.total_seconds() * TIME_TO_STOP if limit is not None else None):
        await activity.wait_for_worker_shutdown()
    run.drain()


@asynccontextmanager
async def _running_alongside(*watchers: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these functions for the duration of the block."""
    tasks = [asyncio.ensure_future(watcher) for watcher in watchers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
