"""A provider that throttles: nothing fails, dies or is paid for twice, and all calls wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count

import pytest
from pydantic import SecretStr

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from engine.contract.component import ComponentSpec, Kind, NoParams
from engine.plan.model import Plan, PlanNode
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.documents import PromptDocument
from engine.sandbox.llm.injected_errors import Fault, rate_limited
from engine.service.server import serving_app
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.histories import family
from tests.temporal.workshop import workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

DOCUMENTS = 48
CHUNKS = 6
RETRY_AFTER = 0.3


class Throttling:
    """Refuses the calls after the first few, and tells them when to retry.

    It counts calls and not seconds, so that a slow machine meets the same storm.
    """

    def __init__(self, accepted: int, refused: int) -> None:
        self._refused = range(accepted, accepted + refused)
        self._calls = count()
        self._refused_at: dict[str, float] = {}
        self.refused = 0
        self.waits: list[float] = []  # seconds from the refusal of a document to its next call

    def __call__(self, documents: Sequence[PromptDocument]) -> Fault | None:
        now = time.monotonic()
        for document in documents:
            if (at := self._refused_at.pop(document.text, None)) is not None:
                self.waits.append(now - at)
        if next(self._calls) not in self._refused:
            return None
        self.refused += 1
        self._refused_at |= {document.text: now for document in documents}
        return rate_limited(RETRY_AFTER)


def memo(number: int) -> dict[str, object]:
    return {
        "id": f"d{number}",
        "source_file_path": f"s3://bucket/{number}.txt",
        "extracted_data": f"Patient: Person {number}\nAge: 40\nPhone: 555-0100\nProcedure: Root canal\n"
        f"Appointment: 2025-05-01\nDoctor: Dr. Number {number}\n",
        "processing_instructions": None,
    }


def extracting(url: str, sink: MemorySink) -> Plan:
    """Documents in, rows out; the transform is made for each chunk."""
    size = DOCUMENTS // CHUNKS
    source = MemorySource({f"s{n}": [[memo(n * size + m) for m in range(size)]] for n in range(CHUNKS)})
    connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr("sandbox"), model="sandbox-extractor")
    params = LlmParams(batch_size=2, concurrency=4)
    spec = ComponentSpec("llm_extract", Kind.TRANSFORM, lambda *_: LlmExtract(params, connection))
    plan = linear_plan(source, sink)
    load, extract = plan.nodes[1], PlanNode("extract", spec, NoParams(), None, ("n0",))
    return replace(plan, nodes=(plan.nodes[0], extract, replace(load, inputs=("extract",))))


async def test_storm_of_429_fails_nothing_and_pays_once(
    server: DevServer,
) -> None:
    throttling = Throttling(accepted=8, refused=16)
    model, sink = LlmStandIn(faults=throttling), MemorySink()
    async with serving_app(model.app) as url, AsyncExitStack() as stack:
        shop = await stack.enter_async_context(workshop(server, extracting(url, sink)))
        for client in server.clients:  # two workers, four chunks each, four calls each
            await stack.enter_async_context(shop.worker(client=client, slots=4))
        result = await shop.run(run_id="storm", chunk_splits=1)
        found = await family(shop.client, "etl/test/storm")

    assert (result.status, result.failed, result.counts.dead) == ("completed", 0, 0)
    assert Counter(record["id"] for record in sink.records) == Counter(f"d{n}" for n in range(DOCUMENTS))
    assert set(found.attempts()) == {1}
    assert model.stats.documents == DOCUMENTS
    assert throttling.refused == 16
    assert len(throttling.waits) >= 16, "each refused call was made again"
    assert min(throttling.waits) >= RETRY_AFTER, "and not before it was asked to"
