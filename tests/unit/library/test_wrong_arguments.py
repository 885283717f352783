"""Wrong arguments of the library's constructors and decorators: one error that names the argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.contract.component import ComponentSpec, NoParams

if TYPE_CHECKING:
    from decimal import Decimal

Kind = engine.Kind


class Keep(engine.Transform[NoParams]):
    def apply(self, batch: engine.Batch) -> engine.Batch:
        return batch


def same(record: Any) -> Any:
    return record


@contextmanager
def logged() -> Iterator[None]:
    yield


async def made() -> Any:
    yield {}


component: Any = partial(engine.component, Kind.TRANSFORM, "t")
source: Any = engine.source
transform: Any = engine.transform
sink: Any = engine.sink

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "kind and name swapped": (
        lambda: called(engine.component, "t", Kind.SINK),
        "engine.component: `kind`",
    ),
    "no such kind": (lambda: called(engine.component, "reader", "t"), "and the name comes second"),
    "name": (lambda: called(engine.component, Kind.TRANSFORM, 5)(Keep), "`name` must be a non-empty string"),
    "empty name": (lambda: engine.component(Kind.TRANSFORM, "")(Keep), "`name` must be a non-empty string"),
    "component of a function": (lambda: component()(same), "decorates a class, got `same`"),
    "params": (lambda: component(params=dict)(Keep), "`params` must be a subclass of pydantic.BaseModel"),
    "connection": (lambda: component(connection={"url": ""})(Keep), "`connection` must be a subclass of"),
    "extra": (lambda: component(extra=["s3"])(Keep), "`extra` must be a string"),
    "locality": (lambda: component(locality="here")(Keep), "`locality` must be a Locality"),
    "bookmarks": (lambda: component(bookmarks="yes")(Keep), "`bookmarks` must be True, False"),
    "claim": (lambda: component(claim="out.jsonl")(Keep), "`claim` must be a function"),
    "kind of a specification": (lambda: called(ComponentSpec, "t", "sink", Keep), "an engine.Kind"),
    "name in place of the function": (lambda: transform("double"), "engine.transform: `function` must be"),
    "class in place of the function": (lambda: transform(Keep), "written in Python"),
    "function that is not Python": (lambda: transform(len), "above its `def`, got <built-in"),
    "name of a function": (lambda: transform(name=5)(same), "engine.transform: `name` must be a string"),
    "batch": (lambda: transform(batch="yes"), "`batch` must be True or False"),
    "no concurrency": (
        lambda: transform(concurrency=0),
        "`concurrency` must be a whole number of at least 1",
    ),
    "concurrency of a sink": (lambda: sink(concurrency="8"), "engine.sink: `concurrency`"),
    "records of a sink": (lambda: sink(records=-1), "`records` must be a number of at least 0"),
    "reason": (lambda: called(engine.filter, reason=None), "engine.filter: `reason`"),
    "key": (lambda: source(key=["a", "b"])(made), "engine.source: `key` must be the name of a field"),
    "unique": (lambda: source(unique="id")(made), "`unique` must be True or False"),
    "node": (lambda: called(engine.Pipeline, "p", read=made), "engine.Pipeline: `read` must be a node"),
    "setting as a node": (lambda: called(engine.Pipeline, "p", retries=3), "belong in `settings={…}`"),
    "memory": (lambda: called(engine.Engine, memory="1GiB"), "`memory` must be a number of bytes"),
    "registry": (lambda: called(engine.Registry, [Keep]), "see `Registry.installed`"),
    "key of a split": (lambda: called(engine.Split, 5), "engine.Split: `key` must be a string"),
    "manifest": (lambda: called(engine.Split, "a", {1}), "engine.Split: `manifest` must be a mapping"),
    "limits": (lambda: called(engine.BatchLimits, "5"), "`records` must be a number of at least 0"),
    "failures": (lambda: called(engine.BatchError, [engine.RecordError("x")]), "must be a mapping"),
}


def called(call: Any, *args: Any, **options: Any) -> Any:
    """Call it although the types are wrong."""
    return call(*args, **options)


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_named(case: tuple[Callable[[], Any], str]) -> None:
    call, message = case
    with pytest.raises(TypeError) as caught:
        call()
    assert message in str(caught.value)


def test_a_kind_may_be_a_text() -> None:
    assert called(engine.component, "transform", "t")(Keep).spec.kind is Kind.TRANSFORM


def test_only_types_of_parameters_have_to_be_known() -> None:
    @engine.transform
    def typed(record: Decimal, *, factor: int = 2) -> Decimal:
        return record * factor

    assert "factor" in called(getattr, typed, "spec").params.model_fields
    with pytest.raises(TypeError, match=r"mistyped.*'Decimal' is not defined.*not under `if TYPE_CHECKING`"):

        @engine.transform
        def mistyped(record: Any, *, factor: Decimal | None = None) -> Any:
            return factor


def test_a_decorated_function_keeps_the_types_of_its_parameters() -> None:
    @engine.transform
    @logged()
    def typed(record: Any, *, kind: Kind = Kind.SINK) -> Any:
        return record

    assert called(getattr, typed, "spec").params.model_fields["kind"].annotation is Kind


async def test_a_component_without_workers_fails_its_run() -> None:
    @engine.component(Kind.TRANSFORM, "idle")
    class Idle(Keep):
        @property
        def concurrency(self) -> int:
            return 0

        async def apply(self, batch: engine.Batch) -> engine.Batch:  # type: ignore[override]
            return batch

    @engine.source
    async def rows() -> Any:
        yield {"n": 1}

    @engine.sink
    async def nowhere(records: Any) -> None: ...

    nodes = (engine.node(one) for one in (rows, Idle, nowhere))
    report = (await engine.run(engine.Pipeline("p", rows=next(nodes), idle=next(nodes), out=next(nodes))))[
        "p"
    ]
    assert "node 'idle' failed: its `concurrency` must be a whole number of at least 1, got 0" in report.error
