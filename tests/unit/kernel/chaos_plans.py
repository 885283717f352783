"""Plans for tests of `chaos`, imported by child processes. Bad ones are named after their bug."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import orjson

from connectors.files import JsonlSink, JsonlSinkParams
from engine.contract.batch import Batch
from engine.contract.component import Component, NoParams, Params, Receipt, Sink, Source, Transform
from engine.errors import FatalError, RecordError
from engine.plan.model import Plan
from engine.testing import MemorySource, linear_plan
from tests.unit.kernel.runs import Wait, pages


def source() -> MemorySource:
    return MemorySource({name: pages(20, size=5, first=20 * at) for at, name in enumerate("abc")})


def _rows(batch: Batch) -> Batch:
    return batch.replace([{"n": number} for number in batch.records])


class Kept(Sink[NoParams]):
    """A sink that a scratch one has to stand for."""

    def __init__(self) -> None:
        super().__init__(NoParams())

    async def write(self, batch: Batch) -> Receipt:
        raise AssertionError("nothing is delivered")


class LinesParams(Params):
    """Where the lines go."""

    path: str


class Appending(Sink[LinesParams]):
    """Adds whatever comes to a file, once more each time that it comes."""

    async def write(self, batch: Batch) -> Receipt:
        add_lines(self.params.path, batch)
        return Receipt()


def add_lines(path: str, batch: Batch) -> None:
    with open(path, "ab") as out:
        out.writelines(orjson.dumps(record) + b"\n" for record in batch.records)


class Unstable(Source[NoParams]):
    """Its records have other keys each time."""

    repeatable = True

    async def extract(self) -> AsyncGenerator[Any, None]:
        for number in range(20):
            yield {"n": number}

    def key(self, record: Any, ordinal: int) -> str:
        return uuid4().hex


class PricedParams(Params):
    """A budget, as of whoever pays."""

    budget_usd: float | None = None


class Paying(Transform[PricedParams]):
    """Pays for nothing."""

    def apply(self, batch: Batch) -> Batch:
        return batch


def sound() -> Plan:
    def some(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("no") if number % 50 == 7 else number for number in batch.records])  # type: ignore[operator]

    return linear_plan(source(), Wait(some), Wait(_rows), Kept())


def random_values() -> Plan:
    def drawn(batch: Batch) -> Batch:
        return batch.replace([{"n": number, "x": random.random()} for number in batch.records])

    return linear_plan(source(), Wait(drawn), Kept())


def unstable_keys() -> Plan:
    return linear_plan(Unstable(NoParams()), Kept())


def appending(path: str) -> Plan:
    return _to_lines(Appending, LinesParams(path=path))


def to_jsonl(path: str) -> Plan:
    return _to_lines(JsonlSink, JsonlSinkParams(path=path))


def ignoring_its_path(path: str) -> Plan:
    return _to_lines(lambda params, connection: Appending(LinesParams(path=path)), LinesParams(path=path))


def paying(budget: float | None = None) -> Plan:
    plan = linear_plan(source(), Paying(PricedParams()), Kept())
    first, node, last = plan.nodes
    return replace(plan, nodes=(first, replace(node, params=PricedParams(budget_usd=budget)), last))


def _to_lines(factory: Callable[[Any, Any], Component[Any]], params: Params) -> Plan:
    plan = linear_plan(source(), Wait(_rows), Kept())
    *others, sink = plan.nodes
    made = replace(sink, spec=replace(sink.spec, factory=factory), params=params)
    return replace(plan, nodes=(*others, made))


def failing_when_resumed(folder: str) -> Plan:
    """Its transform takes a file that an attempt leaves for a reason to stop."""

    def once(batch: Batch) -> Batch:
        mark = Path(folder) / "begun"
        if mark.exists() and mark.read_text() != str(os.getpid()):
            raise FatalError("somebody was here before")
        mark.write_text(str(os.getpid()))
        return batch

    return linear_plan(source(), Wait(once), Kept())


def hanging_when_resumed(folder: str) -> Plan:
    """As `failing_when_resumed`, but it never ends."""

    class Hanging(Transform[NoParams]):
        waits = True

        async def apply(self, batch: Batch) -> Batch:
            mark = Path(folder) / "begun"
            if mark.exists() and mark.read_text() != str(os.getpid()):
                await anyio.sleep_forever()
            mark.write_text(str(os.getpid()))
            return batch

    return linear_plan(source(), Hanging(NoParams()), Kept())
