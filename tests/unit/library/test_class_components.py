"""Components as classes: one that cannot work is refused, by its declaration or at its first batch."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import engine
from engine.contract.component import NoParams

Kind = engine.Kind
ROWS = [{"n": 1}, {"n": 2}]


class PlainGenerator(engine.Source[NoParams]):
    def extract(self) -> Any:
        yield ROWS


class PlainBatches(engine.Source[NoParams]):
    def read(self, *args: Any) -> Any:
        yield args


class Coroutine(engine.Source[NoParams]):
    async def extract(self) -> Any:  # type: ignore[override]
        return ROWS


class NoExtract(engine.Source[NoParams]):
    pass


class GeneratedBatch(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        yield batch


class ForgottenReturn(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        batch.replace(batch.records)


class NoApply(engine.Transform[NoParams]):
    pass


class GeneratingSink(engine.Sink[NoParams]):
    async def write(self, batch: Any) -> Any:  # type: ignore[override]
        yield batch


class NoWrite(engine.Sink[NoParams]):
    pass


@pytest.mark.parametrize(
    ("kind", "cls", "message"),
    [
        (
            Kind.SOURCE,
            PlainGenerator,
            "`PlainGenerator.extract` (FILE) is a plain generator: make it an async",
        ),
        (Kind.SOURCE, PlainBatches, "`PlainBatches.read` (FILE) is a plain generator: make it an async"),
        (Kind.SOURCE, Coroutine, "`Coroutine.extract` (FILE) yields nothing: make it an async generator"),
        (Kind.SOURCE, NoExtract, "`NoExtract` defines no `extract` or `read` method"),
        (Kind.TRANSFORM, GeneratedBatch, "`GeneratedBatch.apply` (FILE) is a generator, so calling it does"),
        (Kind.TRANSFORM, ForgottenReturn, "`ForgottenReturn.apply` (FILE) returns no value anywhere"),
        (Kind.TRANSFORM, NoApply, "`NoApply` defines no `apply` method"),
        (Kind.SINK, GeneratingSink, "`GeneratingSink.write` (FILE) is a generator, so calling it does"),
        (Kind.SINK, NoWrite, "`NoWrite` defines no `write` method"),
        (Kind.SINK, ForgottenReturn, "the sink `ForgottenReturn` must be a subclass of engine.Sink"),
    ],
)
def test_a_class_that_cannot_work_is_refused(kind: engine.Kind, cls: type[Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message).replace("FILE", rf"{re.escape(__file__)}:\d+")):
        engine.component(kind, "odd")(cls)


@engine.component(Kind.SOURCE, "rows")
class Rows(engine.Source[NoParams]):
    async def extract(self) -> AsyncGenerator[Any, None]:
        yield ROWS


@engine.component(Kind.SOURCE, "list")
class ReturnsList(engine.Source[NoParams]):
    def extract(self) -> Any:
        return ROWS


@engine.component(Kind.SOURCE, "list-of-batches")
class ReturnsBatches(engine.Source[NoParams]):
    def read(self, *args: Any) -> Any:
        return [args]


@engine.component(Kind.TRANSFORM, "records")
class ReturnsRecords(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return list(batch.records)


@engine.component(Kind.TRANSFORM, "underived")
class ReturnsOther(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return engine.Batch(batch.records, batch.keys)


@engine.component(Kind.SINK, "plain")
class PlainWrite(engine.Sink[NoParams]):
    def write(self, batch: Any) -> Any:
        return len(batch)


@engine.component(Kind.SINK, "true")
class ReturnsTrue(engine.Sink[NoParams]):
    async def write(self, batch: Any) -> Any:
        return bool(batch)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (ReturnsList, "`ReturnsList.extract` (FILE) returned a list, not an async generator"),
        (ReturnsBatches, "`ReturnsBatches.read` (FILE) returned a list, not an async generator"),
        (
            ReturnsRecords,
            "`ReturnsRecords.apply` (FILE) returned a list, not a batch: return what `batch.replace`",
        ),
        (
            ReturnsOther,
            "`ReturnsOther.apply` (FILE) returned a batch that it has not derived from the given one",
        ),
        (
            PlainWrite,
            "`PlainWrite.write` (FILE) returned a int, which cannot be awaited: make it `async def`",
        ),
        (ReturnsTrue, "`ReturnsTrue.write` (FILE) returned a bool: return None or an `engine.Receipt`"),
    ],
)
async def test_a_method_that_returns_something_else_is_named(odd: Any, message: str) -> None:
    kind = odd.spec.kind
    nodes: dict[str, Any] = {"rows": engine.node(odd if kind is Kind.SOURCE else Rows)}
    if kind is Kind.TRANSFORM:
        nodes["odd"] = engine.node(odd)
    nodes["sink"] = engine.node(odd) if kind is Kind.SINK else engine.node("sink.memory")
    report = (await engine.run(engine.Pipeline("p", **nodes)))["p"]
    assert report.status is engine.RunStatus.FAILED
    assert re.search(re.escape(message).replace("FILE", rf"{re.escape(__file__)}:\d+"), report.error)
