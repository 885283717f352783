"""Jumps of the wall clock by an hour: nothing is lost, duplicated or delayed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime, timedelta

import anyio
import pytest

from engine.contract.clock import SystemClock
from engine.contract.component import NoParams, Source
from engine.contract.types import Record
from engine.errors import FatalError, LeaseHeldError
from engine.execution.engine import Engine
from engine.execution.lease import acquire
from engine.execution.report import RunReport
from engine.state import RunStatus
from engine.state.memory import MemoryStateStore
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import pages, record_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("hours", [-1, 1])]


class JumpingClock(SystemClock):
    """The machine's clock, which somebody sets meanwhile."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return super().now() + self.offset


class RenewedOnceError(Exception):
    """The second wait for a renewal."""


def at_once_and_never_again() -> Callable[[float], Awaitable[None]]:
    waits = iter([False, True])

    async def sleep(seconds: float) -> None:
        if next(waits):
            raise RenewedOnceError

    return sleep


class Jumping(Source[NoParams]):
    """Ten records, and ten more after the clock was set."""

    def __init__(self, clock: JumpingClock, hours: int) -> None:
        super().__init__(NoParams())
        self._clock = clock
        self._hours = hours

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        yield list(range(10))
        await anyio.sleep(0.15)  # longer than the ledger waits with a commit
        self._clock.offset += timedelta(hours=self._hours)
        yield list(range(10, 20))


async def test_a_run_ends_after_it_began(hours: int) -> None:
    clock, sink = JumpingClock(), MemorySink()
    async with Engine(store=MemoryStateStore(), clock=clock) as engine:
        report: RunReport = await engine.run(linear_plan(Jumping(clock, hours), sink))
        (run,) = await engine.store.list_runs()

    assert (report.status, sink.records) == (RunStatus.COMPLETED, list(range(20)))
    assert report.tally.balanced
    assert (run.status, run.ended_at != "") == (RunStatus.COMPLETED, True)


async def test_a_run_is_resumed_without_waiting_for_the_old_lease(hours: int) -> None:
    clock = JumpingClock()
    source, sink = MemorySource(pages(4)), MemorySink()
    async with Engine(store=MemoryStateStore(), clock=clock) as engine:
        failed = await engine.run(linear_plan(source, FaultySink([FatalError("no")])))
        clock.offset += timedelta(hours=hours)
        (run,) = await engine.store.list_runs()
        resumed = await engine.run(linear_plan(source, sink), resume=run)

    assert (failed.status.resumable, resumed.status) == (True, RunStatus.COMPLETED)
    assert sorted(sink.records) == sorted(record for page in pages(4) for record in page)


async def test_a_live_holder_keeps_its_run(hours: int) -> None:
    clock = JumpingClock()
    async with MemoryStateStore() as store:
        await store.create_run(record_of("p-1"))
        async with acquire(store, clock, "p-1") as held:
            before = held.epoch
            clock.offset += timedelta(hours=hours)
            with pytest.raises(RenewedOnceError):
                await held.renew_periodically(at_once_and_never_again())
            with pytest.raises(LeaseHeldError, match="p-1"):
                async with acquire(store, clock, "p-1"):
                    pass
            assert held.epoch == before
