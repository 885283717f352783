"""Components as classes: one that cannot work is refused, by its declaration or at its first batch."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.contract.component import NoParams
from engine.contract.keys import KeyRange
from engine.errors import RegistryError

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


class CoroutineSplits(engine.Source[NoParams]):
    def read(self, *args: Any) -> Any:
        return args

    async def splits(self, ctx: Any) -> Any:  # type: ignore[override]
        return [ctx]


class OtherParameters(engine.Source[NoParams]):
    def extract(self) -> Any:
        return ROWS

    def key(self, record: Any) -> Any:  # type: ignore[override]
        return record


class PlainOpen(engine.Source[NoParams]):
    def open(self, stack: Any) -> Any:
        self.stack = stack

    def extract(self) -> Any:
        return ROWS


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
        (Kind.SOURCE, CoroutineSplits, "`CoroutineSplits.splits` (FILE) yields nothing: make it an async"),
        (
            Kind.SOURCE,
            OtherParameters,
            "(FILE) takes other parameters: write `def key(self, record: Record, ordinal: int) -> str |",
        ),
        (Kind.SOURCE, PlainOpen, "`PlainOpen.open` (FILE) is a plain function: make it `async def`"),
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


@engine.component(Kind.SOURCE, "yields-records")
class YieldsRecords(engine.Source[NoParams]):
    async def read(self, *args: Any) -> AsyncGenerator[Any, None]:
        yield ROWS[0]


@engine.component(Kind.SOURCE, "yields-nothing")
class YieldsNone(engine.Source[NoParams]):
    async def read(self, *args: Any) -> AsyncGenerator[Any, None]:
        yield None
        yield engine.Batch(ROWS, KeyRange("k/", 0, 2))


@engine.component(Kind.SOURCE, "few-keys")
class FewKeys(engine.Source[NoParams]):
    async def read(self, *args: Any) -> AsyncGenerator[Any, None]:
        yield engine.Batch(ROWS, KeyRange("k/", 0, 1))


@engine.component(Kind.SOURCE, "keys-as-splits")
class KeysAsSplits(engine.Source[NoParams]):
    async def splits(self, ctx: Any) -> AsyncGenerator[Any, None]:
        yield "all"

    def read(self, *args: Any) -> Any:
        return args


@engine.component(Kind.TRANSFORM, "first")
class First(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return batch.replace(batch.records[:1])


@engine.component(Kind.SINK, "text-errors")
class TextErrors(engine.Sink[NoParams]):
    async def write(self, batch: Any) -> Any:
        raise engine.BatchError({0: "no"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (YieldsRecords, "`YieldsRecords.read` (FILE) yielded a dict: yield `engine.Batch`, or define `extr"),
        (YieldsNone, "`YieldsNone.read` (FILE) yielded None: yield `engine.Batch`"),
        (FewKeys, "`FewKeys.read` (FILE) yielded a batch of 2 records with 1 keys"),
        (KeysAsSplits, "`KeysAsSplits.splits` (FILE) yielded a str: yield `engine.Split`"),
        (First, "`batch.replace` takes one record for each of 2, got 1: `batch.select` drops records"),
        (TextErrors, "its BatchError has other values than RecordError and TransientError"),
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


@engine.component(Kind.SOURCE, "numbers")
class Numbers(engine.Source[NoParams]):
    async def extract(self) -> AsyncGenerator[Any, None]:
        yield [1, 2]


@engine.component(Kind.SOURCE, "batch-of-numbers")
class BatchOfNumbers(engine.Source[NoParams]):
    async def read(self, *args: Any) -> AsyncGenerator[Any, None]:
        yield engine.Batch([1, 2], KeyRange("k/", 0, 2))


@engine.component(Kind.TRANSFORM, "text")
class Text(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return batch.replace([str(record) for record in batch.records])


@pytest.mark.parametrize("odd", [Numbers, BatchOfNumbers, Text])
async def test_values_that_are_not_records_die_where_they_are_made(odd: Any) -> None:
    nodes: dict[str, Any] = {"settings": {"dead_letters": {"max": "100%"}}}
    if odd.spec.kind is Kind.TRANSFORM:
        nodes["rows"] = engine.node(Rows)
    nodes.update(odd=engine.node(odd), same=engine.node(Same), keep=engine.node("sink.memory"))
    report = (await engine.run(engine.Pipeline("p", **nodes)))["p"]

    assert (report.ok, report.tally.written, report.tally.dead) == (True, 0, 2)
    assert report.first_dead_letter.startswith(f"at `odd`: NotAnObject: `{odd.__name__}.")


@engine.component(Kind.SOURCE, "some-numbers")
class SomeNumbers(engine.Source[NoParams]):
    async def extract(self) -> AsyncGenerator[Any, None]:
        yield [{"n": 1}, 2]


@engine.component(Kind.SINK, "takes-all")
class TakesAll(engine.Sink[NoParams]):
    async def write(self, batch: Any) -> None:
        pass


@pytest.mark.parametrize("staged", [False, True])
async def test_a_later_value_that_is_no_record_names_its_maker(*, staged: bool, tmp_path: Path) -> None:
    nodes: dict[str, Any] = {"odd": engine.node(SomeNumbers)}
    if staged:
        nodes["stage"] = engine.node(TakesAll)
    nodes["keep"] = engine.node("sink.jsonl", path=str(tmp_path / "out.jsonl"))
    report = (await engine.run(engine.Pipeline("p", **nodes)))["p"]

    assert (report.tally.written, report.tally.dead) == (1, 1)
    assert report.first_dead_letter.startswith("at `keep`: NotAnObject: `SomeNumbers.extract` (")
    assert "gave int as a record" in report.first_dead_letter


@engine.component(Kind.TRANSFORM, "adds")
class Adds(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return batch.replace([{**record, "m": 1} for record in batch.records])


@engine.transform
def adds(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "m": 1}


@engine.sink
async def counts(records: list[dict[str, Any]]) -> None:
    assert sum(record["n"] for record in records)


@pytest.mark.parametrize("then", [Adds, adds, counts])
@pytest.mark.parametrize("on_error", [None, "stop"])
async def test_what_trips_over_a_value_that_is_no_record_names_its_maker(then: Any, on_error: Any) -> None:
    options = {"on_error": on_error} if on_error else {}
    nodes: dict[str, Any] = {"odd": engine.node(SomeNumbers), "then": engine.node(then, options=options)}
    if then is not counts:
        nodes["keep"] = engine.node("sink.memory")
    report = (await engine.run(engine.Pipeline("p", **nodes)))["p"]

    assert (report.error, report.tally.written, report.tally.dead) == ("", 1, 1)
    assert report.first_dead_letter.startswith("at `then`: NotAnObject: `SomeNumbers.extract` (")


async def test_a_mistake_beside_a_value_that_is_no_record_fails_the_run() -> None:
    @engine.transform
    def mistaken(record: dict[str, Any]) -> Any:
        return record["no such field"]

    nodes: dict[str, Any] = {"odd": engine.node(SomeNumbers), "then": engine.node(mistaken)}
    report = (await engine.run(engine.Pipeline("p", **nodes, keep=engine.node("sink.memory"))))["p"]
    assert "node 'then' failed: KeyError at " in report.error


class OtherConstructor(engine.Transform[NoParams]):
    def __init__(self, size: int) -> None:
        self.size = size

    def apply(self, batch: Any) -> Any:
        return batch


def test_a_constructor_with_other_parameters_is_refused_with_its_line() -> None:
    odd = engine.component(Kind.TRANSFORM, "other-constructor")(OtherConstructor)
    with pytest.raises(RegistryError, match=rf"`OtherConstructor.__init__` \({re.escape(__file__)}:\d+"):
        engine.Pipeline("p", rows=engine.node(Rows), odd=engine.node(odd)).plan()


@engine.component(Kind.TRANSFORM, "same")
class Same(engine.Transform[NoParams]):
    def apply(self, batch: Any) -> Any:
        return batch.replace(list(batch.records))


@pytest.mark.parametrize("key", ["id", lambda record: record["id"]])
async def test_keys_may_be_numbers_and_a_missing_one_is_the_position(key: Any) -> None:
    @engine.source(key=key, repeatable=True)
    async def numbered() -> AsyncGenerator[Any, None]:
        yield [{"id": number} for number in (0, None, None, 7)]

    seen: list[str] = []

    @engine.component(Kind.SINK, "seen")
    class Seen(engine.Sink[NoParams]):
        async def write(self, batch: Any) -> None:
            seen.extend(batch.keys.to_list())

    await engine.run(engine.Pipeline("p", n=engine.node(numbered), s=engine.node(Seen)))
    assert seen == ["0", "p:n/1", "p:n/2", "7"]
