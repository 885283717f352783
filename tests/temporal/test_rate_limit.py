"""The limit on chunks started per second, and its exceptions."""

from __future__ import annotations

import anyio
import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit
from temporalio.api.workflowservice.v1 import UpdateTaskQueueConfigRequest
from temporalio.client import Client
from temporalio.worker import Worker

from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.eager import Fan, nothing
from tests.temporal.histories import family, kind
from tests.temporal.workshop import PATIENCE, numbered, workshop

# the default run meets durable runs elsewhere; these are for CI and `just series`
pytestmark = pytest.mark.series

PER_SECOND = 5
BEGUN = 18


async def test_queue_limits_the_chunks_started_per_second(server: DevServer) -> None:
    plan = linear_plan(MemorySource(numbered(BEGUN)), MemorySink())
    async with workshop(server, plan) as shop, shop.worker(slots=BEGUN, chunks_per_second=PER_SECOND):
        result = await shop.run(run_id="limited", shards=1, window=BEGUN)
        [[shard]] = (await family(shop.client, "etl/test/limited")).shards
    times = sorted(
        event.event_time.ToDatetime() for event in shard.events if kind(event) == "ACTIVITY_TASK_STARTED"
    )

    assert (result.status, len(times)) == ("completed", BEGUN)
    # a burst of a second's worth is let through, and each of the queue's four partitions may be one ahead
    most = PER_SECOND + 4
    assert (times[-1] - times[0]).total_seconds() >= (BEGUN - most) / PER_SECOND


async def test_eager_starts_bypass_a_server_side_limit(server: DevServer) -> None:
    """This is why a worker with a limit turns them off, and why work has a separate queue."""
    queue = "hardly-any"
    await limit(server.client, queue, per_second=0.01)
    worker = Worker(server.client, task_queue=queue, workflows=[Fan], activities=[nothing])
    async with worker:
        with anyio.fail_after(PATIENCE):
            await server.client.execute_workflow(Fan.run, 8, id=queue, task_queue=queue)


async def limit(client: Client, queue: str, *, per_second: float) -> None:
    """As `temporal task-queue config set --queue-rps-limit` does."""
    request = UpdateTaskQueueConfigRequest(
        namespace=client.namespace,
        task_queue=queue,
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    request.update_queue_rate_limit.rate_limit.CopyFrom(RateLimit(requests_per_second=per_second))
    request.update_queue_rate_limit.reason = "test"
    await client.workflow_service.update_task_queue_config(request)
