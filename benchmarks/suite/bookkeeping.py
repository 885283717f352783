"""The cost of never losing a record: ledger, acks and journal, against an engine without them."""

from __future__ import annotations

import atexit
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import figures
from benchmarks.engine_commands import PIPELINES, engine, needs
from benchmarks.machine import ROOT
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work
from benchmarks.suite.kernel import kernel_plan
from benchmarks.workload import Row, Tally, pool

if TYPE_CHECKING:
    from engine.execution.engine import Engine
    from engine.execution.report import RunReport
    from engine.plan.model import Plan

REFERENCE = "no books"
KEPT = "ledger, acks, journal"
GOAL = Goal("ratio", "<=", 1.05)


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``bookkeeping_job``, and the harsh ``bookkeeping_kernel`` and ``bookkeeping_model``."""
    count, documents = scale.pick(1_000_000, 20_000), scale.pick(2_000, 20)
    memos = scale.pick(600, 20)
    source = pool()
    services = needs("sandbox")
    return [
        Benchmark(
            name="bookkeeping_job",
            description=f"`unstructured_data` of pipelines.yaml: {memos:,} memos from S3 to committed rows,"
            " all services in another process",
            arms=[
                Arm(REFERENCE, partial(job, memos, books=False), unavailable=services),
                Arm(KEPT, partial(job, memos, books=True), goals=[GOAL], unavailable=services),
            ],
            reference=REFERENCE,
            unit="documents",
            metric=figures.CPU,
        ),
        Benchmark(
            name="bookkeeping_kernel",
            description=f"map and filter over {count:,} small dicts, with one edge; the least work",
            arms=[
                Arm(REFERENCE, partial(kernel, source, count, books=False)),
                Arm(KEPT, partial(kernel, source, count, books=True), goals=[GOAL]),
            ],
            reference=REFERENCE,
            metric=figures.CPU,
        ),
        Benchmark(
            name="bookkeeping_model",
            description=f"{documents:,} documents to a stand-in model, five in a call, each answer journaled",
            arms=[
                Arm(
                    REFERENCE,
                    partial(model, documents, books=False),
                    unavailable=needs("sandbox", pipelines=False),
                ),
                Arm(
                    KEPT,
                    partial(model, documents, books=True),
                    goals=[GOAL],
                    unavailable=needs("sandbox", pipelines=False),
                ),
            ],
            reference=REFERENCE,
            unit="documents",
            metric=figures.CPU,
        ),
    ]


async def job(documents: int, *, books: bool) -> Work:
    """The engine's own pipeline: reading, staging, model calls and loading over loopback."""
    from engine.pipeline import load

    plans = load(PIPELINES, only=["unstructured_data"], environ=_services(documents))
    report = await _run(plans["unstructured_data"], books=books)
    loaded = next(node.records_in for node in report.nodes if node.name == "load")
    return Work(documents, f"{loaded} loaded")


async def kernel(source: list[Row], count: int, *, books: bool) -> Work:
    """The kernel's work with a sink behind an edge."""
    tally = Tally()
    plan = kernel_plan(source, count, tally, inline=False)
    await _run(plan, books=books)
    return tally.work(count)


async def model(documents: int, *, books: bool) -> Work:
    """Documents through `llm_extract`, the model in another process."""
    from connectors.llm.extract import LlmExtract
    from connectors.llm.settings import LlmConnection, LlmParams
    from engine.testing import MemorySink, MemorySource, linear_plan

    pages = [[_memo(number) for number in range(start, start + 20)] for start in range(0, documents, 20)]
    sink = MemorySink()
    plan = linear_plan(
        MemorySource(pages),
        LlmExtract(
            LlmParams(usd_per_million_input=0, usd_per_million_output=0),
            LlmConnection.model_validate(_stand_in()),
        ),
        sink,
    )
    await _run(plan, books=books)
    names = sorted(record["patient_name"] for record in sink.records)
    return Work(documents, f"{len(names)} patients, {names[0]} to {names[-1]}")


async def _run(plan: Plan, *, books: bool) -> RunReport:
    async with _engine(books) as running:
        report = await running.run(plan)
    if not report.ok or (books and not (report.tally.read and report.tally.balanced)):
        raise RuntimeError(f"the run did not add up: {report.error or report.tally}")
    return report


@asynccontextmanager
async def _engine(books: bool) -> AsyncIterator[Engine]:
    from benchmarks.unbooked import ForgetfulStore, no_books
    from engine.execution.engine import Engine

    if books:
        with TemporaryDirectory() as state_dir:
            async with Engine(state_dir=state_dir) as running:
                yield running
    else:
        with no_books():
            async with Engine(store=ForgetfulStore()) as running:
                yield running


def _memo(number: int) -> dict[str, str]:
    """A staged document."""
    return {
        "id": f"memo-{number}",
        "source_file_path": f"s3://memos/{number}.txt",
        "extracted_data": _text(number),
    }


def _text(number: int) -> str:
    """Return a memo about as long as those in `samples`; all differ, since equal ones share an answer."""
    return (
        f"Patient: Ann Jones {number:04d} | Age: {20 + number % 60} | Tel: +1 212 555 0110 | "
        "Appointment: 2025-03-14 | Procedure: Teeth whitening session | Dr: Dr. April Jones"
    )


@cache
def _stand_in() -> dict[str, str]:
    """Return the connection to the sandbox's model."""
    return _sandbox("llm")["llm"]


@cache
def _services(documents: int) -> dict[str, str]:
    """Return the environment in which `pipelines.yaml` uses the sandbox's services and this many memos."""
    with TemporaryDirectory() as samples:
        memos = Path(samples) / "memos"
        memos.mkdir()
        for number in range(documents):
            (memos / f"{number}.txt").write_text(_text(number), encoding="utf-8")
        found = _sandbox("s3,llm,ingest", "--samples", samples)
    s3, llm = found["s3"], found["llm"]
    return {
        "S3_ENDPOINT": s3["endpoint"],
        "S3_ACCESS_KEY": s3["access_key"],
        "S3_SECRET_KEY": s3["secret_key"],
        "S3_REGION": s3["region"],
        "OPENAI_BASE_URL": llm["base_url"],
        "OPENAI_API_KEY": llm["api_key"],
        "OPENAI_MODEL": llm["model"],
        "INGEST_URL": found["ingest"]["url"],
    }


def _sandbox(services: str, *options: str) -> dict[str, dict[str, str]]:
    """Start the sandbox, which ends with this process, and return the addresses of its services."""
    state_dir = TemporaryDirectory()
    child = subprocess.Popen(
        engine("sandbox", "--services", services, "--state-dir", state_dir.name, *options),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def end() -> None:
        child.communicate(timeout=30)  # it ends when its standard input does
        state_dir.cleanup()

    atexit.register(end)
    assert child.stdout is not None
    addresses: dict[str, dict[str, str]] = json.loads(child.stdout.readline())
    return addresses
