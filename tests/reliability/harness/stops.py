"""Runs that have to stop although nothing crashed, while paid calls and writes are in flight.

Documents go through a model stand-in with several calls at once into a file. Something stops the run: the
budget, the dead-letter limit, or a fatal error at a place behind the model. It is resumed when that has been
mended. Each document must have been asked about once, and must be in the file once or be dead.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio
import orjson
from pydantic import SecretStr

from connectors.files import JsonlSink, JsonlSinkParams
from connectors.llm import LlmConnection, LlmExtract, LlmParams
from engine.contract.batch import Batch
from engine.contract.component import NoParams, Transform
from engine.errors import FatalError, RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.plan.model import DeadLetterSettings, Plan
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.documents import PromptDocument
from engine.service.server import serving_app
from engine.state.records import RunStatus
from engine.testing import MemorySource, linear_plan

__all__ = ["STOPS", "StopOutcome", "stop_trial"]

BUDGET, LETTERS, FATAL = "budget", "dead-letter limit", "fatal error"
STOPS = (BUDGET, LETTERS, FATAL)
PER_TOKEN = 1.0  # USD per million, in and out


@dataclass
class StopOutcome:
    """The outcome of a trial."""

    name: str
    struck: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Setting:
    kind: str
    documents: int
    page: int
    concurrency: int
    latency: float
    at: int
    """The document, or how many of them, at which the run stops."""

    @classmethod
    def drawn(cls, seed: int, number: int) -> _Setting:
        random = Random(f"stops/{seed}/{number}")
        documents = random.randint(12, 40)
        return cls(
            kind=STOPS[number % len(STOPS)],
            documents=documents,
            page=random.choice([1, 3, documents]),
            concurrency=random.randint(2, 8),
            latency=random.choice([0.0, 0.01, 0.05]),
            at=random.randint(2, documents // 2),
        )


class _Behind(Transform[NoParams]):
    """Stands behind the model: refuses the dead, and meets the fatal error once it is broken."""

    def __init__(self, setting: _Setting, *, broken: bool) -> None:
        super().__init__(NoParams())
        self._fatal = f"u{setting.at}" if broken and setting.kind == FATAL else ""
        self._dying = setting.kind == LETTERS

    @property
    def concurrency(self) -> int:
        return 2

    async def apply(self, batch: Batch) -> Batch:
        await anyio.sleep(0.002)
        if any(record["id"] == self._fatal for record in batch.records):
            raise FatalError("the next service refuses our key", kind="auth")
        if not self._dying:
            return batch
        return batch.outcomes(
            [RecordError("refused") if _number(record) % 3 == 0 else record for record in batch.records]
        )


def stop_trial(seed: int, number: int, folder: Path) -> StopOutcome:
    """Stop a run, resume it, and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    return anyio.run(_trial, seed, number, folder)


async def _trial(seed: int, number: int, folder: Path) -> StopOutcome:
    setting, outcome = _Setting.drawn(seed, number), StopOutcome(f"stops {seed}/{number}")
    began, path = time.monotonic(), folder / "rows.jsonl"
    async with _model(setting.latency) as (asked, url):
        async with Engine(state_dir=folder / "state") as engine:
            first = await engine.run(_plan(setting, url, path, broken=True))
            before = asked.copy()
            record = await engine.store.get_run(first.run_id)
            second = await engine.run(_plan(setting, url, path, broken=False), resume=record)
    if first.status is RunStatus.FAILED:
        outcome.struck.append(setting.kind)
    outcome.problems = _problems(setting, path, asked, before, second)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _plan(setting: _Setting, url: str, path: Path, *, broken: bool) -> Plan:
    staged = [_staged(number) for number in range(setting.documents)]
    pages = [staged[start : start + setting.page] for start in range(0, len(staged), setting.page)]
    a_call = 450 * PER_TOKEN / 1e6  # some 450 tokens in and out
    budget = setting.at * a_call if broken and setting.kind == BUDGET else 1.0
    params = LlmParams(
        batch_size=1,
        concurrency=setting.concurrency,
        budget_usd=budget,
        usd_per_million_input=PER_TOKEN,
        usd_per_million_output=PER_TOKEN,
    )
    connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr("sandbox"), model="sandbox-extractor")
    most = setting.at // 3 if broken and setting.kind == LETTERS else None
    return linear_plan(
        MemorySource(pages),
        LlmExtract(params, connection),
        _Behind(setting, broken=broken),
        JsonlSink(JsonlSinkParams(path=str(path))),
        dead_letters=DeadLetterSettings(max_count=most),
    )


@asynccontextmanager
async def _model(latency: float) -> AsyncIterator[tuple[Counter[str], str]]:
    asked: Counter[str] = Counter()

    def see(documents: Sequence[PromptDocument]) -> None:
        asked.update(document.text.split("\n")[0] for document in documents)

    model = LlmStandIn(faults=see, latency=latency)
    async with serving_app(model.app) as url:
        yield asked, url


def _problems(
    setting: _Setting, path: Path, asked: Counter[str], before: Counter[str], report: RunReport
) -> list[str]:
    found = []
    if not report.ok:
        found.append(f"the resumed run ended as {report.status}: {report.error}")
    again = sorted(text for text, count in asked.items() if count > 1)
    if again:
        found.append(f"paid twice: {len(again)} ({again[0]}), {before.total()} calls before the stop")
    rows = Counter(orjson.loads(line)["id"] for line in path.read_bytes().splitlines())
    doubled = [one for one, count in rows.items() if count > 1]
    if doubled:
        found.append(f"written twice: {len(doubled)} ({doubled[0]})")
    dead = {f"u{number}" for number in range(0, setting.documents, 3)} if setting.kind == LETTERS else set()
    missing = {f"u{number}" for number in range(setting.documents)} - dead - rows.keys()
    if missing:
        found.append(f"lost: {len(missing)} ({min(missing)})")
    if report.tally.dead != len(dead) or not report.tally.balanced:
        found.append(f"the ledger counts {report.tally.dead} dead, {len(dead)} died")
    return found


def _staged(number: int) -> dict[str, object]:
    memo = (
        f"Patient: Person {number}\nAge: {30 + number}\nPhone: 555-0{number:03}\n"
        f"Procedure: Root canal\nAppointment: 2025-05-01\nDoctor: Dr. Number {number}\n"
    )
    return {"id": f"u{number}", "source_file_path": f"memos/{number}.txt", "extracted_data": memo}


def _number(record: dict[str, str]) -> int:
    return int(record["id"][1:])
