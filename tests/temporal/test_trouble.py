"""What a durable run reports while something blocks it, and after it has given up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.errors import TransientError
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.temporal import trouble
from engine.temporal.messages import ChunkRequest, ChunkResult
from engine.temporal.worker_presence import worker_presence
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.stubs import Stubs, done
from tests.temporal.workshop import PATIENCE, Handle, numbered, until, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

ANSWER = "http://warehouse.test:4200 answered 503"


class Away(MemorySink):
    """Takes nothing before the gate is opened."""

    def __init__(self, gate: anyio.Event) -> None:
        super().__init__()
        self.gate = gate

    async def write(self, batch: Batch) -> Receipt:
        if not self.gate.is_set():
            raise TransientError(ANSWER)
        return await super().write(batch)


def plan_into(sink: Away, **settings: Any) -> Any:
    options = {"n1": NodeOptions(retry=RetryOptions(attempts=2, base=0.05, cap=0.05))}
    return linear_plan(MemorySource(numbered(2)), sink, options=options, settings=Settings(**settings))


async def details_of(handle: Handle) -> str:
    described: Any = await handle.query("__temporal_workflow_metadata")
    return str(described.current_details)


async def test_an_outage_shows_in_log_heartbeat_and_details(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "LOGGED_AFTER", 0.2)
    sink, stages = Away(anyio.Event()), list[RunEvent]()
    engine = Engine(observer=stages.append)
    async with workshop(server, plan_into(sink), engine=engine) as shop, shop.worker(beat_every=0.1):
        handle = await shop.start(shards=1)
        progress = await until(handle, lambda progress: progress.trouble.node == "n1")
        with anyio.fail_after(PATIENCE):
            while ANSWER not in (await worker_presence(shop.client, await handle.describe())).trouble:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        details = await details_of(handle)
        sink.gate.set()
        with anyio.fail_after(PATIENCE):
            result = await handle.result()
        after = await details_of(handle)

    assert progress.trouble.note == ANSWER
    assert "`n1` waits since " in details
    assert f"last answer: `{ANSWER}`" in details
    assert "waits" not in after
    said = [stage for stage in stages if stage.action in ("waiting", "recovered")]
    assert [stage.level for stage in said[:1]] == ["warning"]
    assert said[0].message == f"n1 waits for a retry: {ANSWER}"
    assert said[-1].action == "recovered"
    assert result.status == "completed"


async def test_an_outage_of_the_run_ends_it_with_what_was_answered(server: DevServer) -> None:
    sink = Away(anyio.Event())
    plan = plan_into(sink, outage_limit=0.5)
    async with workshop(server, plan) as shop, shop.worker(beat_every=0.1):
        handle = await shop.start(shards=1, window=1)
        with anyio.fail_after(PATIENCE), pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
        record = await shop.engine.store.get_run(handle.id.rpartition("/")[2])

    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == "SinkUnavailable"
    assert raised.value.cause.message.startswith("'n1' could deliver nothing for ")
    assert raised.value.cause.message.endswith(ANSWER)
    assert record.error == raised.value.cause.message


def away(first: int) -> ApplicationError:
    return ApplicationError(f"chunk {first}: {ANSWER}", 3600.0, type="SinkUnavailable", non_retryable=True)


async def test_an_outage_that_stops_every_chunk_is_waited_for_once(server: DevServer) -> None:
    async def nothing(request: ChunkRequest) -> ChunkResult:
        raise away(request.first)

    stubs = Stubs(server.client, splits=20, work=nothing)
    async with stubs.working():
        with pytest.raises(WorkflowFailureError) as raised:
            await stubs.run(shards=1, window=2)

    assert isinstance(raised.value.cause, ApplicationError)
    assert (raised.value.cause.type, ANSWER in raised.value.cause.message) == ("SinkUnavailable", True)
    assert len(stubs.chunks) <= 3, "no chunk waits for what the first have waited for"
    assert [one.status for one in stubs.finalized] == ["failed"]


async def test_an_outage_of_one_chunk_leaves_the_others_alone(server: DevServer) -> None:
    async def one(request: ChunkRequest) -> ChunkResult:
        if request.first == 1:
            raise away(request.first)
        return await done(request)

    stubs = Stubs(server.client, splits=6, work=one)
    async with stubs.working():
        with pytest.raises(WorkflowFailureError) as raised:
            await stubs.run(shards=1, window=1)

    assert Counter(stubs.chunks) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.message == f"1 chunk failed with SinkUnavailable: chunk 1: {ANSWER}"


async def test_activities_say_what_they_do(server: DevServer) -> None:
    stubs = Stubs(server.client, splits=3)
    async with stubs.working():
        handle = await stubs.start(shards=1, chunk_splits=2)
        await handle.result()
        shard = await server.client.get_workflow_handle(f"{handle.id}/s0").fetch_history()

    summaries = [
        server.client.data_converter.payload_converter.from_payloads([event.user_metadata.summary])[0]
        for event in shard.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert summaries == ["n0: splits 1 to 2 of 3", "n0: splits 3 to 3 of 3"]
