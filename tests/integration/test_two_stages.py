"""Staging and enrichment in two pipelines: staged files are neither read nor posted again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connectors.models import INGEST_MODELS
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts
from engine.service.server import running_service, serving_app
from engine.state import RunStatus, open_store
from tests.servers.warm_start import ended

ROOT = Path(__file__).parents[2]
FILE = "samples/unstructured_in_two_stages.yaml"
MEMOS = sorted((DEFAULT_SAMPLES / "memos").glob("memo_*.txt"))
BUCKET = "two-stages"
PATTERN = f"staging.source_file_pattern=s3://{BUCKET}/*.txt"
S3_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
IMPATIENT = (
    "--set=pipelines.enrichment.outage_limit=0s",
    "--set=pipelines.enrichment.nodes.extract.retry.attempts=1",
)
HOP_BY_HOP = {"connection", "content-length", "date", "server", "transfer-encoding"}


class Gate:
    """Hands requests on to a server and counts them by method and path.

    Attributes:
        shut: answer 503 in the server's place.
        victim: a process to kill at the first request that begins with `deadly`.
    """

    def __init__(self, target: str, client: httpx.AsyncClient) -> None:
        self.seen: Counter[str] = Counter()
        self.shut = False
        self.deadly = ""
        self.victim: subprocess.Popen[bytes] | None = None
        self._target, self._client = target, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = scope["raw_path"].decode()
        what = f"{request.method} {path}"
        self.seen[what] += 1
        if self.victim is not None and self.deadly and what.startswith(self.deadly):
            self.victim.kill()
        answer = Response(status_code=503) if self.shut else await self._hand_on(request, path)
        await answer(scope, receive, send)

    async def _hand_on(self, request: Request, path: str) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        answer = await self._client.request(
            request.method, f"{self._target}{path}{query}", headers=headers, content=await request.body()
        )
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return Response(answer.content, answer.status_code, kept)

    def count(self, start: str) -> int:
        """How many requests began so."""
        return sum(number for what, number in self.seen.items() if what.startswith(start))


@dataclass
class World:
    """The three services behind their gates, and the environment that leads to them."""

    lake: Gate
    ingest: Gate
    model: Gate
    env: dict[str, str]
    state: str

    async def run(self, *arguments: str, kill_at: str = "") -> int:
        command = [sys.executable, "-m", "engine", "run", *arguments, "--progress=none"]
        command += [f"--state-dir={self.state}"]
        self.ingest.deadly = kill_at
        with anyio.fail_after(300), subprocess.Popen(command, cwd=ROOT, env=self.env) as process:  # noqa: ASYNC220 - it is waited for in a thread
            self.ingest.victim = process
            return await ended(process)

    def staged(self) -> tuple[int, int]:
        """Requests to S3, and requests that staged rows."""
        return self.lake.seen.total(), self.ingest.count("POST /ingest/UnstructuredData")

    async def ids(self, api: str) -> set[str]:
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"{self.env['INGEST_URL']}/consumption/{api}")).json()
        assert len({row["id"] for row in page["items"]}) == page["total"]
        return {row["id"] for row in page["items"]}

    async def statuses(self) -> dict[str, RunStatus]:
        async with open_store(self.state) as store:
            return {run.pipeline: run.status for run in await store.list_runs()}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=address, **S3_KEYS)
    client.create_bucket(Bucket=BUCKET)
    for path in MEMOS:
        client.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes())
    client.close()
    yield address
    server.stop()


@asynccontextmanager
async def world(s3: str, folder: Path) -> AsyncIterator[World]:
    async with (
        running_service(folder / "service", models=INGEST_MODELS) as service,
        serving_app(LlmStandIn(read_transcripts(DEFAULT_SAMPLES)).app) as llm,
        httpx.AsyncClient(timeout=300) as client,
    ):
        gates = [Gate(target, client) for target in (s3, service.url, llm)]
        async with (
            serving_app(gates[0]) as lake_url,
            serving_app(gates[1]) as ingest_url,
            serving_app(gates[2]) as model_url,
        ):
            env = {
                **os.environ,
                "S3_ENDPOINT": lake_url,
                "S3_ACCESS_KEY": S3_KEYS["aws_access_key_id"],
                "S3_SECRET_KEY": S3_KEYS["aws_secret_access_key"],
                "S3_REGION": S3_KEYS["region_name"],
                "INGEST_URL": ingest_url,
                "OPENAI_BASE_URL": f"{model_url}/v1",
                "OPENAI_API_KEY": "sandbox",
                "OPENAI_MODEL": "sandbox-extractor",
            }
            yield World(*gates, env, str(folder / "state"))  # type: ignore[arg-type, call-arg]


@pytest.mark.series
async def test_a_model_that_is_away_costs_no_second_staging(s3: str, tmp_path: Path) -> None:
    async with world(s3, tmp_path) as here:
        here.model.shut = True
        assert await here.run(FILE, "--param", PATTERN, *IMPATIENT) == 5
        assert await here.statuses() == {"staging": RunStatus.COMPLETED, "enrichment": RunStatus.OUTAGE}
        objects, posts = here.staged()
        assert objects > len(MEMOS)
        assert posts > 0
        assert len(await here.ids("getUnstructuredData")) == len(MEMOS)
        assert await here.ids("getMedical") == set()

        here.model.shut = False
        assert await here.run(FILE, "--resume") == 0
        assert here.staged() == (objects, posts)
        assert await here.ids("getMedical") == await here.ids("getUnstructuredData")


@pytest.mark.series
async def test_a_killed_enrichment_resumes_without_a_second_staging(s3: str, tmp_path: Path) -> None:
    async with world(s3, tmp_path) as here:
        assert await here.run(FILE, "--param", PATTERN, kill_at="POST /ingest/Medical") == -9
        before, asked = here.staged(), here.model.count("POST /v1")
        assert asked > 0
        assert await here.run(FILE, "--resume") == 0
        assert here.staged() == before
        assert await here.ids("getMedical") == await here.ids("getUnstructuredData")


@pytest.mark.slow
async def test_enrichment_reads_exactly_what_staging_left(s3: str, tmp_path: Path) -> None:
    async with world(s3, tmp_path) as here:
        alone = ("--only", "staging", "--param", PATTERN, "--set=pipelines.staging.on_complete=[]")
        assert await here.run(FILE, *alone) == 0
        assert await here.statuses() == {"staging": RunStatus.COMPLETED}
        before = here.staged()
        assert await here.run(FILE, "--only", "enrichment") == 0
        assert await here.ids("getMedical") == await here.ids("getUnstructuredData")
        asked = here.model.seen.total()
        assert await here.run(FILE, "--only", "enrichment") == 0
        assert (here.staged(), here.model.seen.total()) == (before, asked)
