"""Bugs of a pipeline that only show when it is disturbed."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

import engine
from connectors.files import JsonlSink, JsonlSinkParams
from engine.chaos import ChaosReport, Disturbances, chaos
from engine.contract.batch import Batch
from engine.contract.component import NoParams, Receipt, Sink, Source, Transform
from engine.errors import ConfigError, RecordError
from engine.plan.model import Plan
from engine.testing import MemorySource, linear_plan
from tests.unit.kernel.runs import Wait, pages

HOW = Disturbances(kills=3)


def source() -> MemorySource:
    return MemorySource({name: pages(60, size=5, first=60 * at) for at, name in enumerate("abc")})


def rows(batch: Batch) -> Batch:
    return batch.replace([{"n": number} for number in batch.records])


async def tried(plan: Plan, **options: Any) -> ChaosReport:
    return await chaos(plan, runs=3, how=HOW, **options)


async def test_a_sound_pipeline_passes_through_kills_and_failures() -> None:
    def some(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("no") if number % 50 == 7 else number for number in batch.records])  # type: ignore[operator]

    report = await tried(linear_plan(source(), Wait(some), Wait(rows), _Kept()))

    assert report.findings == []
    assert (report.records, len(report.seeds)) == (180, 3)
    assert report.kills > 0


async def test_a_transform_that_is_not_deterministic_is_found() -> None:
    def drawn(batch: Batch) -> Batch:
        return batch.replace([{"n": number, "x": random.random()} for number in batch.records])

    report = await tried(linear_plan(source(), Wait(drawn), _Kept()))

    assert "with other values" in str(report.findings[0])


async def test_a_source_with_unstable_keys_is_found() -> None:
    class Unstable(Source[NoParams]):
        repeatable = True

        async def extract(self) -> AsyncGenerator[Any, None]:
            for number in range(100):
                yield {"n": number}

        def key(self, record: Any, ordinal: int) -> str:
            return uuid4().hex

    report = await tried(linear_plan(Unstable(NoParams()), _Kept()))

    assert "under keys of no undisturbed record" in " ".join(map(str, report.findings))


async def test_a_sink_that_appends_is_found(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    class Appending(Sink[NoParams]):
        async def write(self, batch: Batch) -> Receipt:
            with path.open("ab") as out:
                out.writelines(orjson.dumps(record) + b"\n" for record in batch.records)
            return Receipt()

    plan = linear_plan(source(), Wait(rows), Appending(NoParams()))
    report = await tried(
        plan, arrived={"n2": lambda: _lines(path)}, clean=lambda: path.unlink(missing_ok=True)
    )

    assert [(one.node, one.what) for one in report.findings] == [("n2", "too many, or with other values")]


async def test_the_sink_jsonl_passes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    plan = linear_plan(source(), Wait(rows), Wait(lambda batch: batch), _Fresh(path))
    report = await tried(plan, arrived={"n3": lambda: _lines(path)}, clean=lambda: _empty(tmp_path))

    assert report.findings == []


async def test_what_pays_has_to_be_allowed_and_bounded() -> None:
    class Params(engine.Params):
        budget_usd: float | None = None

    class Paying(Transform[Params]):
        def apply(self, batch: Batch) -> Batch:
            return batch

    plan = linear_plan(source(), Paying(Params()), _Kept())
    first, node, last = plan.nodes
    paying = replace(plan, nodes=(first, replace(node, params=Params()), last))
    with pytest.raises(ConfigError, match="pays for answers: say --yes"):
        await chaos(paying)
    with pytest.raises(ConfigError, match="has no `budget_usd`"):
        await chaos(paying, paid=True)


class _Kept(Sink[NoParams]):
    def __init__(self) -> None:
        super().__init__(NoParams())

    async def write(self, batch: Batch) -> Receipt:
        raise AssertionError("a scratch sink stands for it")


class _Fresh(JsonlSink):
    def __init__(self, path: Path) -> None:
        super().__init__(JsonlSinkParams(path=str(path)))


def _lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
