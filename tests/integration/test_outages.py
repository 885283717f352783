"""The document pipeline during outages of S3, the model or the warehouse.

The clock of the runs jumps, so a minute of waiting takes no time. A side is away for so many seconds of that
clock, from its n-th request on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import engine
from connectors.models import INGEST_MODELS
from engine.execution.engine import Engine
from engine.execution.failure_types import report_failure
from engine.execution.report import RunReport
from engine.plan.model import Plan
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.s3 import s3_server
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts
from engine.service.server import running_service, serving_app
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, RunStatus
from engine.testing import ScriptedClock
from tests.series import few

ROOT = Path(__file__).parents[2]
PATTERN = "s3://unstructured-data/memos/**/*.{txt,docx}"
TRUTH = json.loads((ROOT / "samples" / "truth.json").read_text("utf-8"))
GOOD = [name for name, fate in TRUTH.items() if isinstance(fate, dict) and name.endswith((".txt", ".docx"))]
DROPPED = ("host", "content-length", "transfer-encoding", "connection")
MANY = ["GET", "HEAD", "POST", "PUT"]


class Gate:
    """Stands in front of a side and can close.

    Attributes:
        seconds: for how long it closes, by the clock of the runs.
        first: the request, counted from 1 among those that `concerns` picks, with which it closes.
        answer: what is said meanwhile.
    """

    def __init__(self, behind: str, client: httpx.AsyncClient, clock: ScriptedClock) -> None:
        self.seconds = 0.0
        self.first = 1
        self.answer = Response("away", 503)
        self.concerns: Callable[[Request], bool] = lambda request: True
        self.refused = 0
        self._behind, self._client, self._clock = behind, client, clock
        self._seen = 0
        self._closed_at = inf
        self.app = Starlette(routes=[Route("/{path:path}", self._pass, methods=MANY)])

    @property
    def is_closed(self) -> bool:
        return self._closed_at <= self._clock.monotonic() < self._closed_at + self.seconds

    async def _pass(self, request: Request) -> Response:
        if self.concerns(request):
            self._seen += 1
            if self._seen == self.first and self.seconds:
                self._closed_at = self._clock.monotonic()
            if self.is_closed:
                self.refused += 1
                return self.answer
        raw = request.scope["raw_path"].decode()
        query = request.scope["query_string"].decode()
        answer = await self._client.request(
            request.method,
            f"{self._behind}{raw}" + (f"?{query}" if query else ""),
            headers=[(name, value) for name, value in request.headers.items() if name not in DROPPED],
            content=await request.body(),
        )
        kept = {name: value for name, value in answer.headers.items() if name not in DROPPED}
        if request.method == "HEAD":
            kept["content-length"] = answer.headers["content-length"]
        return Response(answer.content, answer.status_code, kept)


class World:
    """The three sides behind their gates, and the plan that leads to them."""

    def __init__(self, gates: dict[str, Gate], urls: dict[str, str], clock: ScriptedClock) -> None:
        self.gates = gates
        self.clock = clock
        self.store = MemoryStateStore()
        self._urls = urls

    def plan(self, monkeypatch: pytest.MonkeyPatch) -> Plan:
        for name, value in {
            "INGEST_URL": self._urls["ingest"],
            "S3_ENDPOINT": self._urls["s3"],
            "S3_ACCESS_KEY": "key",
            "S3_SECRET_KEY": "secret",
            "S3_REGION": "us-east-1",
            "OPENAI_BASE_URL": f"{self._urls['llm']}/v1",
            "OPENAI_API_KEY": "sandbox",
            "OPENAI_MODEL": "sandbox-extractor",
        }.items():
            monkeypatch.setenv(name, value)
        params = {"unstructured_data": {"source_file_pattern": PATTERN, "batch_size": 4}}
        (plan,) = engine.load(ROOT / "pipelines.yaml", only=["unstructured_data"], params=params).values()
        # most of these documents are made to die
        return replace(plan, dead_letters=replace(plan.dead_letters, max_share=1.0))

    async def run(self, plan: Plan, first: RunReport | None = None) -> RunReport:
        async with Engine(store=self.store, clock=self.clock) as owner:
            resume = await self.store.get_run(first.run_id) if first is not None else None
            with anyio.fail_after(300):
                return await owner.run(plan, resume=resume, verify=True)

    async def dead(self) -> list[str]:
        async with self.store:
            return [letter.error_type for letter in await self.store.dead_letters(DeadLetterFilter())]

    async def medical(self) -> list[str]:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self._urls['ingest']}/consumption/getMedical?limit=1000")
            return [row["id"] for row in answer.json()["items"]]


@pytest.fixture(scope="module")
def lake() -> Iterator[str]:
    with s3_server(DEFAULT_SAMPLES) as url:
        yield url
        headers = {"Authorization": "any"}  # without a key files can only be read
        httpx.post(f"{url}/moto-api/reset", headers=headers).raise_for_status()


@asynccontextmanager
async def opened(folder: Path, lake: str) -> AsyncIterator[World]:
    clock = ScriptedClock(jump=True)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(folder, models=INGEST_MODELS))
        model = LlmStandIn(read_transcripts(DEFAULT_SAMPLES))
        behind = {
            "ingest": service.url,
            "llm": await stack.enter_async_context(serving_app(model.app)),
            "s3": lake,
        }
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=300))
        gates = {name: Gate(url, client, clock) for name, url in behind.items()}
        urls = {name: await stack.enter_async_context(serving_app(gate.app)) for name, gate in gates.items()}
        yield World(gates, urls, clock)


def is_listing(request: Request) -> bool:
    return "list-type" in request.query_params


def is_object(request: Request) -> bool:
    return request.method == "GET" and not is_listing(request)


def is_post(request: Request) -> bool:
    return request.method == "POST"


SIDES = {
    "listing": ("s3", is_listing, 1, Response("<Error><Code>SlowDown</Code></Error>", 503)),
    "reading": ("s3", is_object, 4, Response("<Error><Code>InternalError</Code></Error>", 500)),
    "staging": ("ingest", is_post, 1, Response("Too many requests", 429, {"Retry-After": "7"})),
    "seeing": ("ingest", lambda request: "getUnstructuredData" in request.url.path, 1, Response("", 502)),
    "the model": ("llm", is_post, 2, Response("{}", 429, {"Retry-After": "20"})),
    "loading": ("ingest", lambda request: request.url.path == "/ingest/Medical", 1, Response("", 503)),
}


def close(world: World, side: str, seconds: float) -> Gate:
    name, concerns, first, answer = SIDES[side]
    gate = world.gates[name]
    gate.seconds, gate.concerns, gate.first, gate.answer = seconds, concerns, first, answer
    return gate


async def arrived_once(world: World, report: RunReport) -> None:
    assert (report.status, report.verified) == (RunStatus.COMPLETED, True), report.error
    assert report.tally.written == len(GOOD)
    rows = await world.medical()
    assert len(rows) == len(set(rows)) == len(GOOD)
    assert await world.dead() == []


@pytest.mark.slow
@pytest.mark.parametrize("side", few(SIDES, 1))
async def test_an_outage_of_a_minute_is_waited_out_and_nothing_dies(
    tmp_path: Path, lake: str, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    async with opened(tmp_path, lake) as world:
        gate = close(world, side, 60.0)

        report = await world.run(world.plan(monkeypatch))

        assert gate.refused > 0
        assert world.clock.monotonic() >= 60
        assert sum(node.retries for node in report.nodes) > 0
        await arrived_once(world, report)


@pytest.mark.slow
@pytest.mark.parametrize("side", few(SIDES, 1))
async def test_longer_outage_stops_the_run_resumable_without_deaths(
    tmp_path: Path, lake: str, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    async with opened(tmp_path, lake) as world:
        gate = close(world, side, inf)
        plan = world.plan(monkeypatch)
        plan = replace(plan, settings=replace(plan.settings, outage_limit=60.0))

        report = await world.run(plan)
        assert report.status is RunStatus.OUTAGE, report.error
        assert report_failure(report).retryable  # type: ignore[union-attr]
        assert await world.dead() == []

        gate.seconds = 0
        await arrived_once(world, await world.run(plan, report))
