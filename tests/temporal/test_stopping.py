"""Runs cancelled or drained: records in flight are delivered, nothing keeps running, all can be resumed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from temporalio.client import WorkflowHandle

from engine.state.records import RunStatus
from engine.temporal.messages import ChunkRequest, ChunkResult, Counts
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySource
from tests.series import few
from tests.servers.temporal import DevServer
from tests.temporal.histories import kind
from tests.temporal.races import assert_nothing_goes_on, ended, raced
from tests.temporal.stubs import Stubs
from tests.temporal.workshop import PATIENCE, Held, made_anew, numbered, until, workshop


@pytest.mark.parametrize("what", few(["cancel", "drain"], 1))
async def test_cancelling_delivers_what_was_read_and_ends_all_work(server: DevServer, what: str) -> None:
    records: list[Any] = []
    chunks: set[str] = set()
    gate = anyio.Event()
    plan = made_anew(MemorySource(numbered(12)), lambda: Held(records, gate, chunks.add))
    async with workshop(server, plan) as shop, shop.worker(slots=4):
        handle = await shop.start(run_id="r", shards=2, window=2)
        with anyio.fail_after(PATIENCE):
            while len(chunks) < 4:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.02)
            if what == "cancel":
                await handle.cancel()
            else:
                await handle.execute_update(PipelineRun.drain)
                gate.set()  # running work is not interrupted
        assert await ended(handle) == ("cancelled" if what == "cancel" else "interrupted")
        await assert_nothing_goes_on(shop, handle)
        begun = sorted(records)
        assert len(chunks) == 4
        assert len(begun) == 40, "four chunks of ten"
        assert (await shop.engine.store.tally("r")).written == 40
        record = await shop.engine.store.get_run("r")
        assert record.status is RunStatus.INTERRUPTED
        gate.set()
        result = await shop.run(run_id="r", resume=True)

    assert (result.status, result.counts.written) == ("completed", 120)
    assert Counter(records) == Counter(range(120))


@pytest.mark.series
async def test_cancelling_at_any_moment_loses_nothing(server: DevServer) -> None:
    endings = await raced(server, runs=20, seed="10")

    assert endings.total() == 20
    assert endings["cancelled"] > 0, endings


@pytest.mark.slow
async def test_cancellation_during_the_listing_result_is_heeded(server: DevServer) -> None:
    listing = anyio.Event()
    stubs = Stubs(server.client, listing=listing.wait)
    async with stubs.working():
        handle = await stubs.start()
        await until(handle, lambda progress: progress.phase == "listing")
        await handle.cancel()
        await told(handle)
        listing.set()
        assert await ended(handle) == "cancelled"

    assert stubs.chunks == []
    assert [one.status for one in stubs.finalized] == ["interrupted"]


@pytest.mark.series
async def test_cancellation_during_part_of_a_chunk_is_heeded(server: DevServer) -> None:
    gate = anyio.Event()

    async def handed_back(request: ChunkRequest) -> ChunkResult:
        await gate.wait()
        return ChunkResult(done=False, stopped=True, counts=Counts(read=len(stubs.chunks)))

    stubs = Stubs(server.client, splits=1, work=handed_back)
    async with stubs.working():
        handle = await stubs.start(heartbeat=PATIENCE)
        with anyio.fail_after(PATIENCE):
            while not stubs.chunks:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.02)
        await handle.cancel()
        await told(stubs.client.get_workflow_handle(f"{handle.id}/s0"))
        gate.set()
        assert await ended(handle) == "cancelled"

    assert len(stubs.chunks) == 1, "nothing is begun again"


async def told(handle: WorkflowHandle[Any, Any]) -> None:
    """Wait until a workflow has asked its running activities to stop."""
    with anyio.fail_after(PATIENCE):
        while True:
            events = (await handle.fetch_history()).events
            if any(kind(event) == "ACTIVITY_TASK_CANCEL_REQUESTED" for event in events):
                return
            await anyio.sleep(0.02)
