"""The contract of connectors as tests: subclass one class and give it one fixture.

::

    import pytest
    from engine.testing.contract import SourceCase, SourceContract

    from odw_weather import WeatherSource

    class TestWeather(SourceContract):
        @pytest.fixture
        def case(self) -> SourceCase:
            return SourceCase(component=WeatherSource, params={"days": 20}, records=20)

docs/library.md explains the requirements. The tests need pytest, but no plugin.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import anyio
import pytest
from pydantic import BaseModel, ValidationError

from engine.config.validation import holds_secret
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Component, ComponentSpec, Context, Kind, Sink, Source, Transform
from engine.contract.keys import KeyRange
from engine.contract.types import Record
from engine.dead_letters.queue import as_json
from engine.errors import BatchError, RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.testing.fakes import MemorySink, MemorySource, linear_plan

__all__ = [
    "Case",
    "SinkCase",
    "SinkContract",
    "SourceCase",
    "SourceContract",
    "TransformCase",
    "TransformContract",
]

_SECRET = re.compile(r"(^|_)(secret|token|password|api_key|access_key|credentials?)$")
PATIENCE = 30.0  # seconds per test


@dataclass(frozen=True, kw_only=True)
class Case:
    """How to build the component.

    Args:
        component: the class, or a function decorated with `engine.source`, `transform` or `sink`.
        params: the parameters under `with:` in YAML.
        connection: the fields of its connection; None if it has none.
    """

    component: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] | None = None

    @property
    def spec(self) -> ComponentSpec:
        """Its specification."""
        spec: ComponentSpec = self.component.spec
        return spec

    def build(self) -> Component[Any]:
        """Return a new instance, validated as from a file."""
        spec = self.spec
        connection = (
            spec.connection.model_validate(dict(self.connection or {}))
            if spec.connection is not None
            else None
        )
        made = spec.factory(spec.params.model_validate(dict(self.params)), connection)
        made.ctx = Context("contract", "node", "run-1", seed="5")
        return made


@dataclass(frozen=True, kw_only=True)
class SourceCase(Case):
    """A source that reads `records` records, of which `dead` cannot be decoded; None: any number from one."""

    records: int | None = None
    dead: int = 0


@dataclass(frozen=True, kw_only=True)
class TransformCase(Case):
    """A transform.

    Args:
        given: records that it accepts.
        expected: their output, in order; None is not compared.
        bad: a record that must become a dead letter alone; None if there is no such record.
    """

    given: Sequence[Record]
    expected: Sequence[Record] | None = None
    bad: Record | None = None


@dataclass(frozen=True, kw_only=True)
class SinkCase(Case):
    """A sink.

    Args:
        given: at least two records that it accepts.
        arrived: returns what has arrived so far, as records that compare equal to the given ones.
        bad: a record that the target rejects; None if it accepts everything.
        idempotent: a repeated delivery of a batch, marked as a replay, adds nothing.
    """

    given: Sequence[Record]
    arrived: Callable[[], Sequence[Record]]
    bad: Record | None = None
    idempotent: bool = False


class _Contract:
    """The contract of every component."""

    base: ClassVar[type[Component[Any]]]

    @pytest.fixture
    def case(self) -> Any:
        """The fixture to override."""
        pytest.fail(f"{type(self).__name__} needs a fixture `case`: see engine.testing.contract")

    def test_specification_describes_component_and_parameters(self, case: Case) -> None:
        spec = case.spec
        assert issubclass(self.base, _BASES[spec.kind]), f"{spec.name} is a {spec.kind}"
        assert spec.summary.strip(), "the class needs a docstring: its first line is shown in lists"
        for model in filter(None, (spec.params, spec.connection)):
            bare = [name for name, info in model.model_fields.items() if not info.description]
            assert not bare, f"{model.__name__}: describe {', '.join(bare)} with Field(description=…)"

    def test_misspelt_parameters_are_refused(self, case: Case) -> None:
        with pytest.raises(ValidationError) as caught:
            case.spec.params.model_validate({**case.params, "no_such_parameter": 1})
        kinds = {error["type"] for error in caught.value.errors()}
        assert "extra_forbidden" in kinds, "derive the parameters from engine.Params"

    def test_what_is_named_like_a_secret_is_typed_as_one(self, case: Case) -> None:
        for model in filter(None, (case.spec.params, case.spec.connection)):
            bare = [
                name for name in model.model_fields if _SECRET.search(name) and not holds_secret(model, name)
            ]
            assert not bare, f"{model.__name__}: type {', '.join(bare)} as pydantic.SecretStr"

    def test_building_needs_no_event_loop_and_no_connection(self, case: Case) -> None:
        component = case.build()
        assert component.concurrency >= 1

    def test_it_opens_closes_and_opens_again_beside_another(self, case: Case) -> None:
        async def use() -> None:
            async with case.build() as first:
                assert first is not None
            async with case.build(), case.build():
                pass

        _run(use)

    def test_an_error_inside_the_block_comes_out(self, case: Case) -> None:
        async def use() -> None:
            async with case.build():
                raise LookupError("of the work")

        with pytest.raises(LookupError):
            _run(use)


class SourceContract(_Contract):
    """The contract of every source."""

    base = Source

    def test_a_run_reads_everything_under_distinct_keys(self, case: SourceCase) -> None:
        report, sink = _run(lambda: _read_by_engine(case))
        assert report.error == ""
        assert report.tally.balanced
        assert report.tally.dead == case.dead
        if case.records is not None:
            assert report.tally.read == case.records
        assert sink.keys, "the case has to read at least one record"
        assert len(set(sink.keys)) == len(sink.keys), "two records have the same key"
        distinct = len(set(map(id, sink.records)))
        assert distinct == len(sink.records), "yield a new record each time: a change to one changes all"

    def test_records_can_be_written_as_json(self, case: SourceCase) -> None:
        _, sink = _run(lambda: _read_by_engine(case))
        for record in sink.records:
            assert isinstance(record, Mapping | BaseModel), type(record)
            json.dumps(as_json(record)[0])

    def test_splits_have_stable_keys_and_json_manifests(self, case: SourceCase) -> None:
        async def listed() -> list[tuple[str, str]]:
            async with _source(case) as source, aclosing(source.splits(source.ctx)) as splits:  # type: ignore[type-var]
                return [(one.key, json.dumps(dict(one.manifest), sort_keys=True)) async for one in splits]

        first, second = _run(listed), _run(listed)
        keys = [key for key, _ in first]
        assert len(set(keys)) == len(keys), "two splits have the same key"
        assert first == second, "listing again gives other splits: a resume needs the same ones"

    def test_a_repeatable_source_gives_the_same_records_again(self, case: SourceCase) -> None:
        _skip_unless_repeatable(case)
        (_, first), (_, second) = _run(lambda: _read_by_engine(case)), _run(lambda: _read_by_engine(case))
        again = sorted(zip(second.keys, map(_text, second.records), strict=True))
        assert sorted(zip(first.keys, map(_text, first.records), strict=True)) == again

    def test_reading_continues_after_every_position(self, case: SourceCase) -> None:
        _skip_unless_repeatable(case)
        if type(_source(case)).read is Source.read:
            pytest.skip("the engine counts the positions of a source with `extract` alone")

        async def read() -> None:
            async with _source(case) as source, aclosing(source.splits(source.ctx)) as splits:  # type: ignore[type-var]
                async for split in splits:
                    batches = [one async for one in source.read(split, None, source.ctx)]
                    for number, batch in enumerate(batches):
                        assert batch.position is not None, "a batch needs the position after it"
                        position = json.loads(json.dumps(batch.position))
                        rest = [one async for one in source.read(split, position, source.ctx)]
                        assert _pairs(rest) == _pairs(batches[number + 1 :])

        _run(read)

    def test_it_may_be_left_after_the_first_record(self, case: SourceCase) -> None:
        async def leave() -> None:
            async with _source(case) as source:
                if type(source).extract is not Source.extract:
                    async with aclosing(source.extract()) as records:
                        await anext(records)
                if type(source).read is not Source.read:
                    async with aclosing(source.splits(source.ctx)) as splits:  # type: ignore[type-var]
                        split = await anext(splits)
                    async with aclosing(source.read(split, None, source.ctx)) as batches:
                        await anext(batches)

        _run(leave)


class TransformContract(_Contract):
    """The contract of every transform."""

    base = Transform

    def test_a_run_through_it_accounts_for_every_record(self, case: TransformCase) -> None:
        report, sink = _run(lambda: _run_through(case, case.given))
        assert report.error == ""
        assert report.tally.balanced
        assert report.tally.dead == 0, "a record of `given` died"
        assert len(set(sink.keys)) == len(sink.keys)
        if case.expected is not None:
            assert [as_json(one)[0] for one in sink.records] == [as_json(one)[0] for one in case.expected]

    def test_what_it_was_given_stays_as_it_was(self, case: TransformCase) -> None:
        async def apply() -> None:
            given = deepcopy(list(case.given))
            batch = _batch(given)
            async with case.build() as transform:
                await _apply(transform, batch)
            assert batch.records is given
            assert given == list(case.given), "change copies: another branch may have the same record"

        _run(apply)

    def test_batches_may_be_cut_anywhere(self, case: TransformCase) -> None:
        async def apply(cuts: Sequence[int]) -> list[tuple[str, str]]:
            found: list[Batch] = []
            async with case.build() as transform:
                for start, stop in pairwise(cuts):
                    found.append(await _apply(transform, _batch(list(case.given[start:stop]), start)))
            return _pairs(found)

        size = len(case.given)
        assert _run(lambda: apply([0, size])) == _run(lambda: apply([0, size // 2, size]))

    def test_an_empty_batch_stays_empty(self, case: TransformCase) -> None:
        async def apply() -> int:
            async with case.build() as transform:
                return len(await _apply(transform, Batch([], [])))

        assert _run(apply) == 0

    def test_a_bad_record_dies_alone(self, case: TransformCase) -> None:
        if case.bad is None:
            pytest.skip("the case has no `bad` record")
        report, _ = _run(lambda: _run_through(case, [*case.given, case.bad]))
        assert report.error == "", "raise engine.RecordError for a record that can never pass"
        assert report.tally.dead == 1
        assert report.tally.balanced


class SinkContract(_Contract):
    """The contract of every sink."""

    base = Sink

    def test_what_is_acknowledged_has_arrived(self, case: SinkCase) -> None:
        async def write() -> None:
            async with _sink(case) as sink:
                await sink.write(_batch(deepcopy(list(case.given))))

        _run(write)
        _assert_arrived(case, case.given)

    def test_what_it_was_given_stays_as_it_was(self, case: SinkCase) -> None:
        given = deepcopy(list(case.given))

        async def write() -> None:
            async with _sink(case) as sink:
                await sink.write(_batch(given))

        _run(write)
        assert given == list(case.given), "write copies: a node after the sink gets the same records"

    def test_an_empty_batch_brings_nothing(self, case: SinkCase) -> None:
        async def write() -> None:
            async with _sink(case) as sink:
                await sink.write(_batch([]))
                await sink.write(_batch(list(case.given[:1])))

        _run(write)
        _assert_arrived(case, case.given[:1])

    def test_a_bad_record_fails_alone(self, case: SinkCase) -> None:
        if case.bad is None:
            pytest.skip("the case has no `bad` record")

        async def write() -> BatchError | None:
            async with _sink(case) as sink:
                try:
                    await sink.write(_batch([case.given[0], case.bad, *case.given[1:]]))
                except BatchError as error:
                    return error
            return None

        error = _run(write)
        assert error is not None, "raise engine.BatchError({index: engine.RecordError(…)})"
        assert list(error.failures) == [1]
        assert isinstance(error.failures[1], RecordError)
        _assert_arrived(case, case.given)

    def test_a_replay_keeps_the_promise_of_the_sink(self, case: SinkCase) -> None:
        if not case.idempotent:
            pytest.skip("the case says that the sink is not idempotent")

        async def write(*, replay: bool) -> None:
            async with _sink(case) as sink:
                await sink.write(_batch(list(case.given), replay=replay))

        _run(lambda: write(replay=False))
        _run(lambda: write(replay=True))
        _assert_arrived(case, case.given)

    def test_a_run_into_it_delivers_everything(self, case: SinkCase) -> None:
        async def run() -> RunReport:
            async with Engine() as engine:
                return await engine.run(linear_plan(MemorySource([list(case.given)]), case.build()))

        report = _run(run)
        assert report.error == ""
        assert report.tally.written == len(case.given)
        _assert_arrived(case, case.given)


_BASES = {Kind.SOURCE: Source, Kind.TRANSFORM: Transform, Kind.SINK: Sink}


def _run(function: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        with anyio.fail_after(PATIENCE):
            return await function()

    return anyio.run(bounded)


def _source(case: Case) -> Source[Any]:
    component = case.build()
    assert isinstance(component, Source)
    return component


def _sink(case: Case) -> Sink[Any]:
    component = case.build()
    assert isinstance(component, Sink)
    return component


def _skip_unless_repeatable(case: Case) -> None:
    if not _source(case).repeatable:
        pytest.skip("the source does not say `repeatable = True`: its runs cannot be resumed")


def _batch(records: list[Record], start: int = 0, *, replay: bool = False) -> Batch:
    batch = Batch(records, KeyRange("k/", start, start + len(records)))
    ack = SplitTracker("split", replay=replay).begin(len(records), None)
    batch.origins = [(ack, len(records))] if records else []
    return batch


async def _apply(transform: Component[Any], batch: Batch) -> Batch:
    assert isinstance(transform, Transform)
    derived = transform.apply(batch)
    return await derived if inspect.isawaitable(derived) else derived


async def _read_by_engine(case: Case) -> tuple[RunReport, MemorySink]:
    sink = MemorySink()
    async with Engine() as engine:
        return await engine.run(linear_plan(case.build(), sink)), sink


async def _run_through(case: Case, records: Sequence[Record]) -> tuple[RunReport, MemorySink]:
    sink = MemorySink()
    async with Engine() as engine:
        plan = linear_plan(MemorySource([deepcopy(list(records))]), case.build(), sink)
        return await engine.run(plan), sink


def _text(record: Record) -> str:
    return json.dumps(as_json(record)[0], sort_keys=True)


def _pairs(batches: Sequence[Batch]) -> list[tuple[str, str]]:
    return [
        (key, _text(record))
        for batch in batches
        for key, record in zip(batch.keys.to_list(), batch.records, strict=True)
    ]


def _assert_arrived(case: SinkCase, expected: Sequence[Record]) -> None:
    assert sorted(map(_text, case.arrived())) == sorted(map(_text, expected))
