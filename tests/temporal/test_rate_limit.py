"""The limit on chunks started per second, and its exceptions."""

from __future__ import annotations

import anyio
import pytest
from temporalio.api.enums.v1 import RateLimitSource, TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateTaskQueueConfigRequest
from temporalio.client import Client
from temporalio.worker import Worker

from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.eager import Fan, nothing
from tests.temporal.workshop import PATIENCE, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

CHUNKS = 18
HARDLY_ANY = 0.001


async def test_queue_limits_the_chunks_started_per_second(server: DevServer) -> None:
    """Most chunks wait while an equal run without a limit, which starts later, is completed."""
    sink, other = MemorySink(), MemorySink()
    async with workshop(server, linear_plan(MemorySource(numbered(CHUNKS)), sink)) as shop:
        async with shop.worker(slots=CHUNKS, chunks_per_second=HARDLY_ANY):
            limited = await shop.start(shards=1, window=CHUNKS)
            with anyio.fail_after(PATIENCE):
                while not sink.records:  # noqa: ASYNC110 - there is no event for it
                    await anyio.sleep(0.02)
            async with workshop(server, linear_plan(MemorySource(numbered(CHUNKS)), other)) as free:
                async with free.worker(slots=CHUNKS):
                    assert (await free.run(shards=1, window=CHUNKS)).status == "completed"
            # one is let through at once, and each of the queue's four partitions may be one ahead
            assert len(sink.records) <= (1 + 4) * 10
            request = DescribeTaskQueueRequest(
                namespace=shop.client.namespace,
                task_queue=TaskQueue(name=shop.queues.work),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
            told = await shop.client.workflow_service.describe_task_queue(request)
        async with shop.worker(slots=CHUNKS, chunks_per_second=1000):
            with anyio.fail_after(PATIENCE):
                result = await limited.result()

    assert told.effective_rate_limit.requests_per_second == pytest.approx(HARDLY_ANY)
    assert told.effective_rate_limit.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_WORKER
    assert (result.status, result.counts.written) == ("completed", CHUNKS * 10)
    assert sorted(sink.records) == sorted(other.records)


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
