"""4. A worker that is told to stop: all it has under way is told at once, and has the same grace."""

from __future__ import annotations

import asyncio
from typing import cast

import anyio
from temporalio import activity

from engine.temporal.activities import Activities
from engine.temporal.messages import ChunkRequest, ChunkResult
from engine.temporal.worker import WorkerOptions, serve
from engine.temporal.workflows import PipelineRun
from tests.servers.temporal import DevServer
from tests.temporal.stubs import Stubs, done
from tests.temporal.workshop import PATIENCE

LONG = 10 * PATIENCE  # seconds in which nothing here ends by itself


async def test_4_chunks_and_listings_are_told_to_stop_together_and_workflows_are_decided_upon_meanwhile(
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
