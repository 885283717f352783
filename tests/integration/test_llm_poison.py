"""A document without an answer fails alone; an endpoint without any answer is an outage."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import DeadLetterFilter, RunStatus
from engine.state.memory import MemoryStateStore
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.integration.scripted_http import Answer, Request, ScriptedServer
from tests.integration.test_llm import staged

PARAMS = {
    "fields": {"total": {"type": "integer"}},
    "batch_size": 1,
    "usd_per_million_input": 1,
    "usd_per_million_output": 1,
}


class Endpoint(ScriptedServer):
    """Answers 500 about documents with a word, and 12 about all others until it is `away`."""

    def __init__(self, *, away_after: int = 1_000) -> None:
        super().__init__(self.answer)
        self.away_after = away_after

    def answer(self, request: Request) -> Answer:
        if "poison" in json.dumps(request.json) or len(self.requests) > self.away_after:
            return Answer.of({"error": {"message": "boom"}}, 500)
        message = {"role": "assistant", "content": json.dumps({"total": 12})}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return Answer.of({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


async def extracted(server: Endpoint, texts: list[str], concurrency: int) -> tuple[RunReport, list[str], int]:
    """Run over these texts: the report, kinds of the dead letters, and how many were written."""
    connection = LlmConnection(base_url=f"{server.url}/v1", api_key=SecretStr("k"), model="m")
    params = LlmParams.model_validate(PARAMS | {"concurrency": concurrency})
    documents = [staged(number, text=f"text {number} {text}") for number, text in enumerate(texts)]
    sink, store = MemorySink(), MemoryStateStore()
    async with Engine(store=store) as engine:
        plan = linear_plan(
            MemorySource([documents]),
            LlmExtract(params, connection),
            sink,
            options={"n1": NodeOptions(retry=RetryOptions(attempts=3, base=0.001, cap=0.01))},
            settings=Settings(outage_limit=0.05),
        )
        report = await engine.run(plan)
        letters = await store.dead_letters(DeadLetterFilter())
    return report, [letter.error_type for letter in letters], len(sink.records)


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("at", [0, 2, 5])
async def test_a_document_without_an_answer_fails_alone(concurrency: int, at: int) -> None:
    texts = ["poison" if number == at else "fine" for number in range(6)]
    async with Endpoint().running() as server:
        report, dead, written = await extracted(server, texts, concurrency)

    assert report.ok, report.error
    assert (dead, written) == (["RetriesExhausted"], 5)


async def test_an_endpoint_that_answers_nothing_kills_no_document() -> None:
    async with Endpoint(away_after=3).running() as server:
        report, dead, written = await extracted(server, ["fine"] * 6, 1)

    assert report.status is RunStatus.OUTAGE
    assert (dead, written) == ([], 3)
