"""A stopping worker: all its activities are notified at once, with the same grace period."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest
from temporalio import activity

from engine.contract.component import Context
from engine.contract.split import Split
from engine.temporal.activities import Activities
from engine.temporal.messages import ChunkRequest, ChunkResult
from engine.temporal.worker import WorkerOptions, serve
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.histories import family
from tests.temporal.stubs import Stubs, done
from tests.temporal.workshop import PATIENCE, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

LONG = 10 * PATIENCE  # seconds in which nothing here ends by itself


async def test_stopping_worker_stops_chunks_and_listings_together(
    server: DevServer,
) -> None:
    begun = {what: anyio.Event() for what in ("chunk", "listing")}
    told = {what: anyio.Event() for what in begun}
    over = anyio.Event()

    async def held(what: str) -> None:
        begun[what].set()
        await activity.wait_for_worker_shutdown()
        told[what].set()
        await over.wait()

    async def work(request: ChunkRequest) -> ChunkResult:
        await held("chunk")
        return await done(request)

    async def listing() -> None:
        if stubs.chunks:  # of the second run
            await held("listing")

    stubs = Stubs(server.client, splits=1, work=work, listing=listing)
    options = WorkerOptions(stubs.queues, grace=LONG)
    stop = anyio.Event()
    serving = asyncio.create_task(serve(server.client, cast(Activities, stubs), options, stop))
    try:
        with anyio.fail_after(PATIENCE):
            await stubs.start(heartbeat=LONG)
            await begun["chunk"].wait()
            second = await stubs.start(heartbeat=LONG)
            await begun["listing"].wait()
        stop.set()
        with anyio.fail_after(PATIENCE):
            for one in told.values():
                await one.wait()
            assert (await second.query(PipelineRun.progress)).phase == "listing"
    finally:
        stop.set()
        over.set()
        await serving


class Halting(MemorySource):
    """Its first listing never comes to an end."""

    def __init__(self) -> None:
        super().__init__(numbered(3))
        self.listings = 0
        self.halted = anyio.Event()

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        self.listings += 1
        async for split in super().splits(ctx):
            yield split
        if self.listings == 1:
            self.halted.set()
            await anyio.sleep_forever()


async def test_interrupted_listing_is_handed_back_without_an_attempt(server: DevServer) -> None:
    source, sink = Halting(), MemorySink()
    async with workshop(server, linear_plan(source, sink)) as shop:
        async with shop.worker(grace=0.5):
            handle = await shop.start(shards=1)
            with anyio.fail_after(PATIENCE):
                await source.halted.wait()
        async with shop.worker():
            with anyio.fail_after(PATIENCE):
                result = await handle.result()
        attempts = (await family(server.client, handle.id)).attempts()

    assert (result.status, sorted(sink.records)) == ("completed", list(range(30)))
    assert (source.listings, set(attempts)) == (2, {1})
