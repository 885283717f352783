"""Nothing is paid for twice: runs that are killed, fail or run concurrently, against the stand-in model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from connectors.models import INGEST_MODELS
from engine.cli.local.operating import PipelineOperations, RunLog
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.plan.model import Plan
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.documents import PromptDocument
from engine.sandbox.llm.injected_errors import Fault, Refusal, Truncated
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts
from engine.service.server import running_service, serving_app
from engine.state import JournalFilter, RunStatus, open_store
from engine.state.memory import MemoryStateStore
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from tests.series import few
from tests.servers.warm_start import ended

ROOT = Path(__file__).parents[2]
TRUTH = json.loads((ROOT / "samples" / "truth.json").read_text("utf-8"))
GOOD = [fields for fields in TRUTH.values() if isinstance(fields, dict)]
WRONG: tuple[bytes, int, dict[str, str]] = (b"Wrong key", 403, {})


class Model:
    """The stand-in, with a record of what it was asked; `fault` may spoil a call by the texts in it."""

    def __init__(self, **options: Any) -> None:
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.fault: dict[str, Fault] = {}
        self.stand_in = LlmStandIn(read_transcripts(DEFAULT_SAMPLES), faults=self._see, **options)
        self.app = self.stand_in.app

    def _see(self, documents: Sequence[PromptDocument]) -> Fault | None:
        self.asked += [(document.text, document.images) for document in documents]
        found = (fault for text, fault in self.fault.items() if any(text in one.text for one in documents))
        return next(found, None)


class Gate:
    """Stands in front of the ingest service; what happens to the first Medical rows is up to the test."""

    def __init__(self, service: str, client: httpx.AsyncClient) -> None:
        self.broken = True
        self.victim: subprocess.Popen[bytes] | None = None
        self._service, self._client = service, client
        self.app = Starlette(routes=[Route("/{path:path}", self._pass, methods=["GET", "POST"])])

    async def _pass(self, request: Request) -> Response:
        if self.broken and request.url.path == "/ingest/Medical":
            if self.victim is not None:
                self.victim.kill()
            return Response(*WRONG)
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        answer = await self._client.request(
            request.method,
            f"{self._service}{request.url.path}",
            params=request.url.query,
            headers=headers,
            content=await request.body(),
        )
        kept = {"content-type", "retry-after"}
        found = {name: value for name, value in answer.headers.items() if name in kept}
        return Response(answer.content, answer.status_code, found)


@asynccontextmanager
async def world(folder: Path, model: Model) -> AsyncIterator[tuple[Gate, dict[str, str]]]:
    """A model, and an ingest service behind a gate; with the environment that leads to them."""
    async with (
        running_service(folder / "service", models=INGEST_MODELS) as service,
        httpx.AsyncClient(timeout=300) as client,
    ):
        gate = Gate(service.url, client)
        async with serving_app(gate.app) as ingest, serving_app(model.app) as llm:
            yield (
                gate,
                {
                    **os.environ,
                    "INGEST_URL": ingest,
                    "OPENAI_BASE_URL": f"{llm}/v1",
                    "OPENAI_API_KEY": "sandbox",
                    "OPENAI_MODEL": "sandbox-extractor",
                },
            )


async def run_engine(gate: Gate, env: dict[str, str], *arguments: str, kill: bool = False) -> int:
    command = [sys.executable, "-m", "engine", "run", *arguments, "--progress", "none"]
    with anyio.fail_after(300), subprocess.Popen(command, cwd=ROOT, env=env) as process:  # noqa: ASYNC220 - it is waited for in a thread
        gate.victim = process if kill else None
        return await ended(process)


@pytest.mark.slow
@pytest.mark.parametrize("kill", few([True, False], 1), ids=["killed", "the sink fails"])
async def test_a_run_that_ends_after_the_model_pays_nothing_again(tmp_path: Path, kill: bool) -> None:
    model, state = Model(), str(tmp_path / "state")
    async with world(tmp_path, model) as (gate, env):
        first = await run_engine(
            gate, env, "pipelines.yaml", "--only", "unstructured_data", "--state-dir", state, kill=kill
        )
        assert first == (-9 if kill else 1)
        async with open_store(state) as store:
            journaled = len(await store.list_journal(JournalFilter(pipeline="unstructured_data")))
        assert journaled > 0

        gate.broken = False
        before = len(model.asked)
        assert await run_engine(gate, env, "pipelines.yaml", "--resume", "--state-dir", state) == 0
        # what was in flight when the process ended is asked for again, and nothing else
        assert len(model.asked) - before == len(GOOD) - journaled
        async with httpx.AsyncClient() as client:
            url = f"{env['INGEST_URL']}/consumption/getMedical"
            rows = (await client.get(url, params={"limit": "1000"})).json()["items"]
    fields = GOOD[0].keys()
    found = sorted(json.dumps([row[name] for name in fields]) for row in rows)
    assert found == sorted(json.dumps([truth[name] for name in fields]) for truth in GOOD)


def staged(number: int, content: int | None = None) -> dict[str, object]:
    who = number if content is None else content
    memo = (
        f"Patient: Person {who}\nAge: {30 + who}\nPhone: 555-0{who:03}\n"
        f"Procedure: Root canal\nAppointment: 2025-05-01\nDoctor: Dr. Number {who}\n"
    )
    return {"id": f"u{number}", "source_file_path": f"memos/{number}.txt", "extracted_data": memo}


def plan(
    url: str, records: list[dict[str, object]], sink: MemorySink, *, pipeline: str = "memos", **params: Any
) -> Plan:
    connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr("sandbox"), model="sandbox-extractor")
    extract = LlmExtract(LlmParams(**params), connection)
    return linear_plan(MemorySource([records]), extract, sink, pipeline=pipeline)


def hits(report: RunReport) -> float:
    return report.nodes[1].aggregate.get("journal_hits", 0)


@pytest.mark.slow
async def test_answers_that_a_changed_prompt_cannot_use_are_reported(tmp_path: Path) -> None:
    prompt, file = tmp_path / "prompt.txt", tmp_path / "p.yaml"
    file.write_text("pipelines: {p: {nodes: {read: {source: blob}, write: {sink: stdout}}}}")
    model, sink = Model(), FaultySink([None, FatalError("full")])
    records = [staged(number) for number in range(4)]
    options: dict[str, Any] = {"batch_size": 1, "instructions_file": str(prompt)}
    options |= {"usd_per_million_input": 1000, "usd_per_million_output": 1000}
    async with serving_app(model.app) as url, Engine() as engine:
        prompt.write_text("Dates as ISO.")
        first = await engine.run(plan(url, records, sink, **options))
        prompt.write_text("Names in capitals.")
        resume = await engine.store.get_run(first.run_id)
        second = await engine.run(plan(url, records, sink, **options), resume=resume)
        answers = await engine.store.list_journal(JournalFilter(run_id=first.run_id))
        async with anyio.create_task_group() as group:
            page = PipelineOperations(str(file), RunLog())
            page.attach(engine, group)
            shown = await page.detail(first.run_id)
    assert (second.ok, len(model.asked)) == (True, 8)
    assert second.unused_usd > 0
    assert second.paid_usd == pytest.approx(second.tally.cost_usd + second.unused_usd)
    assert second.paid_usd == pytest.approx(sum(one.cost_usd for one in answers))
    document = second.to_json()
    assert (document["paid_usd"], document["unused_usd"]) == (second.paid_usd, second.unused_usd)
    assert shown is not None
    assert shown.paid_usd == pytest.approx(second.paid_usd)


@pytest.mark.slow
async def test_identical_documents_of_a_run_pay_once_and_each_gets_its_row() -> None:
    model, sink = Model(), MemorySink()
    records = [staged(number, content=number % 3) for number in range(30)]
    async with serving_app(model.app) as url, Engine() as engine:
        report = await engine.run(plan(url, records, sink, batch_size=2))
    assert report.tally.written == 30
    assert sorted(sink.keys) == sorted(f"all/{number}" for number in range(30))
    assert len(model.asked) == 3
    assert hits(report) == 27
    stats = model.stand_in.stats
    assert (report.tally.tokens_in, report.tally.tokens_out) == (stats.prompt_tokens, stats.completion_tokens)


@pytest.mark.slow
async def test_two_runs_at_once_in_an_engine_pay_once(tmp_path: Path) -> None:
    model, sinks, reports = Model(latency=0.02), [MemorySink(), MemorySink()], []
    records = [staged(number) for number in range(20)]

    async with serving_app(model.app) as url, Engine(state_dir=tmp_path) as engine:

        async def run(sink: MemorySink, pipeline: str) -> None:
            reports.append(await engine.run(plan(url, records, sink, pipeline=pipeline)))

        async with anyio.create_task_group() as group:
            for sink, pipeline in zip(sinks, ("memos", "notes"), strict=True):
                group.start_soon(run, sink, pipeline)
    assert [report.tally.written for report in reports] == [20, 20]
    assert len(model.asked) == 20
    assert sum(map(hits, reports)) == 20
    stats = model.stand_in.stats
    assert sum(report.tally.tokens_in for report in reports) == stats.prompt_tokens


async def test_a_resume_in_the_same_process_pays_for_nothing_again() -> None:
    model, store = Model(), MemoryStateStore()
    records = [staged(number) for number in range(8)]
    async with serving_app(model.app) as url, Engine(store=store) as engine:
        broken, mended = FaultySink([FatalError("disk")]), MemorySink()
        first = await engine.run(plan(url, records, broken))
        assert first.status is RunStatus.FAILED
        paid = model.stand_in.stats.prompt_tokens
        resumed = await engine.run(plan(url, records, mended), resume=await store.get_run(first.run_id))
    assert (resumed.ok, resumed.tally.written, len(mended.records)) == (True, 8, 8)
    assert model.stand_in.stats.prompt_tokens == paid
    assert hits(resumed) == 8
    # the first attempt committed nothing, so what it paid is booked now
    assert (first.tally.tokens_in, resumed.tally.tokens_in) == (0, paid)


@pytest.mark.slow
async def test_a_refused_document_dies_again_without_being_paid_for_again() -> None:
    model, store = Model(), MemoryStateStore()
    model.fault = {"Person 2": Refusal(), "Person 3": Truncated()}
    records = [staged(number) for number in range(5)]
    async with serving_app(model.app) as url, Engine(store=store) as engine:
        first = await engine.run(plan(url, records, FaultySink([FatalError("disk")])))
        calls = model.stand_in.stats.calls
        redone = await engine.run(plan(url, records, MemorySink()), resume=await store.get_run(first.run_id))
        assert model.stand_in.stats.calls == calls
        anew = await engine.run(plan(url, records, MemorySink()))
    assert (redone.tally.written, redone.tally.dead) == (3, 2)
    assert (anew.tally.written, anew.tally.dead) == (3, 2)
    # a new run hopes for a whole answer to the third, and knows that the second is refused
    asked_anew = [text for text, _ in model.asked[-2:]]
    assert model.stand_in.stats.calls == calls + 2
    assert all("Person 3" in text for text in asked_anew)


@pytest.mark.slow
async def test_a_budget_counts_what_earlier_attempts_of_the_run_have_paid() -> None:
    model, store = Model(), MemoryStateStore()
    records = [staged(number) for number in range(10)]
    prices: dict[str, Any] = {"usd_per_million_input": 1.0, "usd_per_million_output": 1.0}
    limits: dict[str, Any] = {"batch_size": 1, "concurrency": 1, "budget_usd": 0.002}
    async with serving_app(model.app) as url, Engine(store=store) as engine:
        first = await engine.run(plan(url, records, MemorySink(), **prices, **limits))
        assert "budget" in first.error
        calls = model.stand_in.stats.calls
        assert 0 < calls < 10
        again = await engine.run(
            plan(url, records, MemorySink(), **prices, **limits), resume=await store.get_run(first.run_id)
        )
        assert "budget" in again.error
        assert model.stand_in.stats.calls == calls
        raised = plan(url, records, MemorySink(), **prices, **{**limits, "budget_usd": 1.0})
        final = await engine.run(raised, resume=await store.get_run(first.run_id))
    assert final.tally.written == 10
    assert final.tally.tokens_in == model.stand_in.stats.prompt_tokens
    assert final.tally.cost_usd == pytest.approx(
        (model.stand_in.stats.prompt_tokens + model.stand_in.stats.completion_tokens) / 1e6
    )
    assert model.stand_in.stats.calls == 10
