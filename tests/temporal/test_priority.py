"""Runs of different priorities on one queue: urgent ones overtake a backfill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import anyio
import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.service import RPCError

from engine.contract.types import JsonValue
from engine.plan.model import Plan
from engine.temporal.messages import PipelineRequest
from engine.temporal.starting import Handle, start
from engine.testing import MemorySource
from tests.servers.temporal import DevServer, running
from tests.temporal.histories import family, kind
from tests.temporal.stubs import Stubs
from tests.temporal.workshop import PATIENCE, Held, Workshop, made_anew, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

BACKFILL, ASKED_FOR = 12, 2
WINDOW = 6


@pytest.fixture(scope="module")
def orderly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A server that heeds priorities, strictly: its queues are in one part."""
    dynamic = {
        "matching.useNewMatcher": "true",
        "matching.TaskQueueInfoByBuildIdTTL": '"100ms"',
        "limit.historyCount.suggestContinueAsNew": "40",
        "matching.numTaskqueueReadPartitions": "1",
        "matching.numTaskqueueWritePartitions": "1",
    }
    with running(tmp_path_factory.mktemp("orderly"), dynamic=dynamic) as started:
        yield started


@pytest.fixture(autouse=True)
def _orderly_before_what_is_left_behind_is_counted(orderly: DevServer) -> None:
    """As the other server."""


@pytest.mark.parametrize(("priority", "overtakes"), [(1, True), (3, False)])
async def test_run_of_higher_priority_overtakes_a_backfill(
    orderly: DevServer, priority: int, overtakes: bool
) -> None:
    begun: list[str] = []
    gate = anyio.Event()

    def plans(pipeline: str, params: Mapping[str, JsonValue]) -> Plan:
        size = BACKFILL if pipeline == "backfill" else ASKED_FOR
        return made_anew(
            MemorySource(numbered(size)), lambda: Held([], gate, lambda chunk: begun.append(pipeline))
        )

    async with workshop(orderly, plans) as shop, shop.worker(slots=1):
        backfill = await submitted(shop, "backfill", 3)
        await until_scheduled(shop, backfill, WINDOW)
        await until_waiting(shop, WINDOW - 1)  # one of them has the only slot
        asked_for = await submitted(shop, "asked_for", priority)
        await until_scheduled(shop, asked_for, ASKED_FOR)
        await until_waiting(shop, WINDOW - 1 + ASKED_FOR)
        gate.set()
        with anyio.fail_after(PATIENCE):
            for handle in (backfill, asked_for):
                assert (await handle.result()).status == "completed"

    last = max(index for index, name in enumerate(begun) if name == "asked_for")
    assert len(begun) == BACKFILL + ASKED_FOR
    assert (last < WINDOW) is overtakes, begun


async def test_every_part_of_every_shard_inherits_the_priority(orderly: DevServer) -> None:
    stubs = Stubs(orderly.client, splits=30)
    async with stubs.working():
        request = PipelineRequest("test", "r", queues=stubs.queues, shards=1, window=4, priority=2)
        handle = await start(stubs.client, request)
        with anyio.fail_after(PATIENCE):
            await handle.result()
        found = await family(stubs.client, handle.id)

    begun = [one.events[0].workflow_execution_started_event_attributes for one in found.all]
    assert len(begun) > 2, "a shard in several parts"
    assert {one.priority.priority_key for one in begun} == {2}


async def submitted(shop: Workshop, pipeline: str, priority: int) -> Handle:
    request = PipelineRequest(
        pipeline,
        f"{pipeline}-r",
        queues=shop.queues,
        shards=1,
        window=WINDOW,
        heartbeat=PATIENCE,
        priority=priority,
    )
    return await start(shop.client, request)


async def until_scheduled(shop: Workshop, run: Handle, chunks: int) -> None:
    """Wait until the only shard of a run has requested this many chunks."""
    shard = shop.client.get_workflow_handle(f"{run.id}/s0")
    with anyio.fail_after(PATIENCE):
        while True:
            with suppress(RPCError):  # there is none yet
                events = (await shard.fetch_history()).events
                if sum(kind(event) == "ACTIVITY_TASK_SCHEDULED" for event in events) >= chunks:
                    return
            await anyio.sleep(0.05)


async def until_waiting(shop: Workshop, chunks: int) -> None:
    """Wait until this many chunks wait for a worker, by the server's approximate count."""
    request = DescribeTaskQueueRequest(
        namespace=shop.client.namespace,
        task_queue=TaskQueue(name=shop.queues.work),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        report_stats=True,
    )
    with anyio.fail_after(PATIENCE):
        while True:
            found = await shop.client.workflow_service.describe_task_queue(request)
            if found.stats.approximate_backlog_count >= chunks:
                return
            await anyio.sleep(0.05)
