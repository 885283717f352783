"""A payload codec on both sides, and the errors if one side lacks it."""

from __future__ import annotations

import anyio
import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from engine.errors import ConfigError, FatalError
from engine.temporal.connection import converter
from engine.temporal.workflows import PipelineRun
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.codecs import ENCODING
from tests.temporal.histories import family, kind, payloads
from tests.temporal.stubs import Handle
from tests.temporal.workshop import PATIENCE, numbered, workshop

CODEC = "tests.temporal.codecs:Hiding"
REMEDY = "set the payload codec of the other processes with --codec or ODW_TEMPORAL_CODEC"


def client_with(server: DevServer, codec: str) -> Client:
    """A client on the same connection."""
    config = server.client.config()
    config["data_converter"] = converter(codec)
    return Client(**config)


@pytest.mark.slow
async def test_codec_on_both_sides_encrypts_everything(server: DevServer) -> None:
    sink = MemorySink()
    plan = linear_plan(MemorySource(numbered(4)), sink)
    client = client_with(server, CODEC)
    async with workshop(server, plan, client=client) as shop, shop.worker():
        result = await shop.run(run_id="hidden", params={"test": {"word": "readable"}})
        found = await family(server.client, "etl/test/hidden")

    assert (result.status, result.counts.written, len(sink.records)) == ("completed", 40, 40)
    sent = [
        payload
        for history in found.all
        for name, payload in payloads(history.events)
        if name not in ("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",) and "type" not in payload.metadata
    ]
    assert len(sent) > 20
    assert {payload.metadata["encoding"] for payload in sent} == {ENCODING}
    assert not any(b"readable" in event.SerializeToString() for one in found.all for event in one.events)


@pytest.mark.series
async def test_failure_messages_are_encoded_too(server: DevServer) -> None:
    plan = linear_plan(MemorySource(numbered(1)), FaultySink([FatalError("readable", kind="auth")]))
    async with workshop(server, plan, client=client_with(server, CODEC)) as shop, shop.worker():
        with pytest.raises(WorkflowFailureError) as raised:
            await shop.run(run_id="failing")
        found = await family(server.client, "etl/test/failing")

    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.message == "node 'n1' failed: readable"
    assert not any(b"readable" in event.SerializeToString() for one in found.all for event in one.events)


@pytest.mark.series
async def test_worker_without_the_codec_leaves_the_run_waiting(
    server: DevServer,
) -> None:
    sink = MemorySink()
    plan = linear_plan(MemorySource(numbered(2)), sink)
    async with workshop(server, plan, client=client_with(server, CODEC)) as shop:
        handle = await shop.start()
        async with workshop(server, plan, client=client_with(server, "")) as poor:
            poor.queues = shop.queues
            async with poor.worker():
                failure = await _refused(server, handle)
        async with shop.worker():
            with anyio.fail_after(PATIENCE):
                result = await handle.result()

    assert "Unknown payload encoding binary/hidden" in failure
    assert REMEDY in failure
    assert result.status == "completed"


@pytest.mark.series
async def test_client_without_the_codec_gets_the_remedy(server: DevServer) -> None:
    plan = linear_plan(MemorySource(numbered(2)), MemorySink())
    async with workshop(server, plan, client=client_with(server, CODEC)) as shop, shop.worker():
        handle = await shop.start()
        poor = client_with(server, "").get_workflow_handle_for(PipelineRun.run, handle.id)
        with anyio.fail_after(PATIENCE):
            await handle.result()
            with pytest.raises(ConfigError, match="binary/hidden") as asked:
                await poor.query(PipelineRun.progress)
            with pytest.raises(ConfigError, match="binary/hidden") as waited:
                await poor.result()

    assert REMEDY in str(asked.value)
    assert REMEDY in str(waited.value)


@pytest.mark.parametrize("name", ["nowhere:Codec", "tests.temporal.codecs:Missing", "json:JSONEncoder", "x"])
def test_something_that_is_not_a_codec_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the payload codec"):
        converter(name)


async def _refused(server: DevServer, handle: Handle) -> str:
    """What the first task of a run that a worker could not do has failed with."""
    with anyio.fail_after(PATIENCE):
        while True:
            history = await server.client.get_workflow_handle(handle.id).fetch_history()
            for event in history.events:
                if kind(event) == "WORKFLOW_TASK_FAILED":
                    return event.workflow_task_failed_event_attributes.failure.cause.message
            await anyio.sleep(0.02)
