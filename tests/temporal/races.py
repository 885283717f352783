"""Runs cancelled at different moments: while planning, working or ending."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode

from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource
from tests.servers.temporal import DevServer
from tests.temporal.stubs import Handle
from tests.temporal.workshop import PATIENCE, Workshop, made_anew, numbered, workshop

__all__ = ["assert_nothing_goes_on", "ended", "raced"]

AT_ONCE = 10
CHUNKS = 4
JITTER = 0.05  # seconds, at most, from the moment that is waited for to the cancellation
MOMENTS = (-1, 0, 10, 20, 30)  # started; in the store; so many records written


async def ended(handle: Handle) -> str:
    """How a run has ended."""
    with anyio.fail_after(PATIENCE):
        try:
            return (await handle.result()).status
        except WorkflowFailureError as failure:
            return "cancelled" if isinstance(failure.cause, CancelledError) else str(failure.cause)


async def assert_nothing_goes_on(shop: Workshop, handle: Handle) -> None:
    """No shard of a run, no activity and no lease is left."""
    number = 0
    while True:
        try:
            shard = await shop.client.get_workflow_handle(f"{handle.id}/s{number}").describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                break
            raise
        assert shard.status is not WorkflowExecutionStatus.RUNNING
        assert not shard.raw_description.pending_activities
        number += 1
    with anyio.fail_after(PATIENCE):  # one that is not given back stays there when it has expired
        while await shop.engine.store.leases(handle.id.rpartition("/")[2]):  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.05)


async def raced(server: DevServer, *, runs: int, seed: str) -> Counter[str]:
    """Cancel this many runs, resume them, and check that each record arrived once.

    Returns:
        How often each ending came.
    """
    random = Random(seed)
    records: dict[str, list[Any]] = defaultdict(list)
    plan = made_anew(MemorySource(numbered(CHUNKS)), lambda: _Slow(records, random))
    endings: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def race(shop: Workshop, run_id: str, moment: int, jitter: float) -> None:
        async def reached() -> bool:
            known = moment < 0 or run_id in {run.run_id for run in await shop.engine.store.list_runs()}
            return known and len(records[run_id]) >= moment

        async with limiter:
            endings[await _race(shop, run_id, reached, jitter)] += 1
            if run_id in {run.run_id for run in await shop.engine.store.list_runs()}:
                assert Counter(records[run_id]) == Counter(range(CHUNKS * 10)), run_id

    # a heartbeat that is late would have a chunk begun again that is still worked on
    async with workshop(server, plan) as shop, shop.worker(slots=AT_ONCE, beat_every=0.1, beat_throttle=0.5):
        async with anyio.create_task_group() as group:
            for number in range(runs):
                moment = MOMENTS[number % len(MOMENTS)]
                group.start_soon(race, shop, f"r{number}", moment, random.random() * JITTER)
    return endings


async def _race(shop: Workshop, run_id: str, reached: Callable[[], Awaitable[bool]], jitter: float) -> str:
    handle = await shop.start(run_id=run_id, shards=1, window=2, heartbeat=PATIENCE)
    with anyio.fail_after(PATIENCE):
        while not await reached():  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.01)
    await anyio.sleep(jitter)
    asked = await _cancelled(handle)
    how = await ended(handle)
    assert asked or how == "completed"
    if run_id not in {run.run_id for run in await shop.engine.store.list_runs()}:
        return "never begun"
    await assert_nothing_goes_on(shop, handle)
    status = (await shop.engine.store.get_run(run_id)).status
    assert status is (RunStatus.COMPLETED if how == "completed" else RunStatus.INTERRUPTED)
    if how == "cancelled":
        again = await shop.run(run_id=run_id, resume=True, heartbeat=PATIENCE)
        assert again.status == "completed"
    return how


async def _cancelled(handle: Handle) -> bool:
    """Ask for it; False when the run had ended before."""
    try:
        await handle.cancel()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


class _Slow(MemorySink):
    """Takes its time, and keeps records by their run."""

    def __init__(self, records: dict[str, list[Any]], random: Random) -> None:
        super().__init__()
        self._by_run, self._random = records, random

    async def write(self, batch: Batch) -> Receipt:
        await anyio.sleep(self._random.random() * 0.02)
        self._by_run[self.ctx.run_id] += batch.records
        return Receipt()
