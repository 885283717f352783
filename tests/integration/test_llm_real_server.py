"""Extraction by a real model server, llama.cpp's, with a model of 135 M weights.

It judges the protocol and not the quality: such a model may well write nonsense.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import DeadLetterFilter, RunStatus
from engine.state.memory import MemoryStateStore
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.llama import running

# takes most of a minute; the night and `just series` run it
pytestmark = pytest.mark.series

CONTEXT = 1024  # tokens; few, so that the overlong document is short
KINDS = {"SlotMissing", "MalformedReply", "AnswerTruncated", "MissingFields", "InvalidFields"}
FIELDS: dict[str, Any] = {
    "name": {"description": "The person's name", "required": True},
    "city": {"enum": ["Oslo", "Rome", "Lima"]},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(CONTEXT, tmp_path_factory.mktemp("llama") / "llama.log") as address:
        yield address


def document(number: int, text: str = "") -> dict[str, object]:
    name, city = ("Ann", "Bob", "Cy", "Dee")[number % 4], ("Oslo", "Rome", "Lima")[number % 3]
    memo = text or f"The name is {name}. {name} lives in {city}."
    return {"id": f"d{number}", "source_file_path": f"{number}.txt", "extracted_data": memo}


@dataclass
class Runs:
    """Runs of an engine, whose journal and dead letters they share."""

    engine: Engine
    store: MemoryStateStore
    url: str

    async def extract(self, records: list[dict[str, object]], **params: Any) -> tuple[RunReport, list[str]]:
        """The report, and the kinds of the dead letters."""
        connection = LlmConnection(base_url=self.url, model="smollm2")
        given = LlmParams.model_validate({"fields": FIELDS, "max_tokens": 96, "concurrency": 1, **params})
        plan = linear_plan(MemorySource([records]), LlmExtract(given, connection), MemorySink())
        report = await self.engine.run(plan)
        letters = await self.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
        return report, [letter.error_type for letter in letters]


@asynccontextmanager
async def runs(url: str) -> AsyncIterator[Runs]:
    store = MemoryStateStore()
    async with Engine(store=store) as engine:
        yield Runs(engine, store, url)


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_every_document_has_a_known_fate_and_is_paid_once(url: str, batch_size: int) -> None:
    records = [document(number) for number in range(4)]
    async with runs(url) as these:
        first, dead = await these.extract(records, batch_size=batch_size)
        again, _ = await these.extract(records, batch_size=batch_size)
    assert first.status is RunStatus.COMPLETED
    assert first.tally.read == first.tally.written + first.tally.dead == 4
    assert set(dead) <= KINDS
    assert first.tally.tokens_in > 0
    assert first.tally.tokens_out > 0
    answered = first.tally.written + sum(kind in ("MissingFields", "InvalidFields") for kind in dead)
    assert again.nodes[1].aggregate.get("journal_hits", 0) == answered


async def test_a_document_beyond_the_context_is_called_too_long(url: str) -> None:
    long = document(1, "The name is Ann, who lives in Rome. " * 200)
    async with runs(url) as these:
        report, dead = await these.extract([document(0), long], batch_size=2)
    assert report.status is RunStatus.COMPLETED
    assert "DocumentTooLong" in dead
    assert report.tally.written + report.tally.dead == 2
