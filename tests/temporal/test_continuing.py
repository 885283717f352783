"""Shards that continue as new: no update is lost, no count is off, no history grows long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from temporalio.converter import DataConverter

from engine.temporal.messages import Control, Counts, ShardResult
from engine.temporal.shards import ShardRun
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySource
from tests.servers.temporal import DevServer, running
from tests.temporal.histories import Family, family, kind
from tests.temporal.workshop import PATIENCE, Held, made_anew, numbered, until, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

SUGGESTED = 40
WINDOW = 4
CHUNKS = 80
CHUNKS_PER_STEERING = 5
LAST_OF_EACH = {f"n0/{CHUNKS // 2 - 1}+1", f"n0/{CHUNKS - 1}+1"}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A server that suggests to continue as new after 40 events."""
    dynamic = {"limit.historyCount.suggestContinueAsNew": str(SUGGESTED)}
    with running(tmp_path_factory.mktemp("impatient"), dynamic=dynamic) as started:
        yield started


@pytest.fixture(autouse=True)
def _impatient_before_what_is_left_behind_is_counted(impatient: DevServer) -> None:
    """As the other server."""


class LastHeld(Held):
    """Holds the last chunk of each shard, and others while there are more than were steered."""

    def __init__(self, records: list[Any], gate: anyio.Event, may_write: anyio.Semaphore) -> None:
        super().__init__(records, gate)
        self._may_write = may_write

    async def write(self, batch: Any) -> Any:
        if self.ctx.chunk in LAST_OF_EACH:
            return await super().write(batch)
        await self._may_write.acquire()
        return await super(Held, self).write(batch)


async def test_continued_shard_loses_no_update_and_counts_exactly(
    impatient: DevServer,
) -> None:
    records: list[Any] = []
    gate, may_write = anyio.Event(), anyio.Semaphore(0)
    plan = made_anew(MemorySource(numbered(CHUNKS)), lambda: LastHeld(records, gate, may_write))
    async with workshop(impatient, plan) as shop, shop.worker(slots=8):
        handle = await shop.start(shards=2, window=WINDOW)
        await until(handle, lambda progress: progress.shards == 2)
        shards = [shop.client.get_workflow_handle_for(ShardRun.run, f"{handle.id}/s{n}") for n in (0, 1)]
        with anyio.fail_after(PATIENCE):
            steered = 0
            # the shards run through one part after the other meanwhile
            while len(records) < (CHUNKS - 2) * 10:
                steered += 1
                for _ in range(CHUNKS_PER_STEERING):
                    may_write.release()
                said = await handle.execute_update(PipelineRun.set_window, 2 + steered % 3)
                assert said == Control(window=2 + steered % 3)
                if steered % 4 == 0:
                    await handle.execute_update(PipelineRun.pause)
                    await handle.execute_update(PipelineRun.resume)
            last = await handle.execute_update(PipelineRun.set_window, WINDOW)
            for shard in shards:
                assert (await shard.query(ShardRun.progress)).control == last
            gate.set()
            result = await handle.result()
        found = await family(shop.client, handle.id)

    assert steered * CHUNKS_PER_STEERING >= CHUNKS - 2
    assert (result.status, result.counts) == ("completed", Counts(read=CHUNKS * 10, written=CHUNKS * 10))
    assert Counter(records) == Counter(range(CHUNKS * 10))
    assert all(len(parts) > 1 for parts in found.shards)
    assert _ends(found) == (CHUNKS, CHUNKS * 10)
    assert set(found.attempts()) == {1}
    for history in [part for parts in found.shards for part in parts]:
        signals = sum(kind(event) == "WORKFLOW_EXECUTION_SIGNALED" for event in history.events)
        assert len(history.events) <= SUGGESTED + 6 * WINDOW + 4 * signals


def _ends(found: Family) -> tuple[int, int]:
    """Chunks done and records written, as the shards themselves have counted over all their parts."""
    convert = DataConverter.default.payload_converter
    done = written = 0
    for parts in found.shards:
        end = parts[-1].events[-1].workflow_execution_completed_event_attributes.result.payloads
        [result] = convert.from_payloads(end, [ShardResult])
        done += result.done_chunks
        written += result.counts.written
    return done, written


async def test_paused_shard_stays_paused_when_it_continues_as_new(
    impatient: DevServer,
) -> None:
    records: list[Any] = []
    gate = anyio.Event()
    plan = made_anew(MemorySource(numbered(20)), lambda: Held(records, gate))
    async with workshop(impatient, plan) as shop, shop.worker(slots=4):
        handle = await shop.start(shards=1, window=2)
        await until(handle, lambda progress: progress.shards == 1)
        shard = shop.client.get_workflow_handle_for(ShardRun.run, f"{handle.id}/s0")
        first = (await shard.describe()).run_id
        with anyio.fail_after(PATIENCE):
            while (await shard.query(ShardRun.progress)).open_chunks < 2:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.02)
            await handle.execute_update(PipelineRun.pause)
            for number in range(SUGGESTED // 3):  # steering alone fills the history
                await handle.execute_update(PipelineRun.set_window, 2 + number % 2)
            assert (await shard.describe()).run_id == first, "what is under way keeps a part from ending"
            assert (await shard.query(ShardRun.progress)).open_chunks == 2
            gate.set()
            while (await shard.describe()).run_id == first:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.02)
            progress = await shard.query(ShardRun.progress)
            assert progress.control == Control(paused=True, window=2)
            assert (progress.done_chunks, progress.open_chunks, progress.left_chunks) == (2, 0, 18)
            assert len(records) == 20
            await handle.execute_update(PipelineRun.resume)
            result = await handle.result()

    assert (result.status, result.counts.written, len(records)) == ("completed", 200, 200)
