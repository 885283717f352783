"""Components that raise more than an `Exception`: the node fails, and no record counts as done."""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, field_serializer

import engine
from engine.contract.batch import Batch
from engine.contract.component import Context, Params, Sink, Source
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state.records import RunStatus
from engine.testing import linear_plan

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio"])  # nothing but trio itself can cancel a task of trio
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Odd(BaseException):
    """Derived from BaseException, as some libraries' own are."""


RAISED: list[Callable[[], object]] = [
    lambda: sys.exit(0),
    lambda: raised(CancelledError()),
    lambda: raised(Odd("SECRET")),
    lambda: raised(BaseExceptionGroup("SECRET", [Odd()])),
]
NAMES = ["exit", "cancelled", "odd", "group"]


def raised(error: BaseException) -> object:
    raise error


def nodes(place: str, end: Callable[[], object]) -> dict[str, Any]:
    """A pipeline that goes wrong in this place at the third record."""

    def check(record: dict[str, Any]) -> dict[str, Any]:
        if record["n"] == 2:
            end()
        return record

    @engine.source
    async def read() -> Any:
        for n in range(5):
            yield check({"n": n}) if place == "source" else {"n": n}

    @engine.transform
    def plain(record: dict[str, Any]) -> dict[str, Any]:
        return check(record) if place == "plain" else record

    @engine.transform
    async def waiting(record: dict[str, Any]) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return check(record) if place == "async" else record

    @engine.sink
    async def save(records: list[dict[str, Any]]) -> None:
        if place == "sink":
            end()

    return {
        "read": engine.node(read),
        "plain": engine.node(plain),
        "waiting": engine.node(waiting),
        "save": engine.node(save),
    }


async def run(pipeline: engine.Pipeline) -> RunReport:
    return (await engine.run(pipeline))["p"]


@pytest.mark.parametrize("end", RAISED, ids=NAMES)
@pytest.mark.parametrize("place", ["source", "plain", "async", "sink"])
async def test_a_component_that_raises_anything_fails(place: str, end: Callable[[], object]) -> None:
    with anyio.fail_after(300):
        report = await run(engine.Pipeline("p", **nodes(place, end)))
    assert report.status is RunStatus.FAILED
    assert "test_escapes.py" in report.error
    assert "SECRET" not in report.error
    assert report.tally.balanced


@pytest.mark.parametrize("end", RAISED[:2], ids=NAMES[:2])
@pytest.mark.parametrize("place", ["read", "open", "close"])
async def test_classes_that_raise_anything_fail(place: str, end: Callable[[], object]) -> None:
    class Rows(Source[Params]):
        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            yield Batch([{"n": 1}], KeyRange("rows/", 0, 1), position=1)
            if place == "read":
                end()

    class Leaving(Sink[Params]):
        async def __aenter__(self) -> Self:
            if place == "open":
                end()
            return self

        async def write(self, batch: Batch) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            if place == "close":
                end()

    async with Engine() as own:
        report = await own.run(linear_plan(Rows(Params()), Leaving(Params())))
    assert (report.status, "node " in report.error) == (RunStatus.FAILED, True)


async def test_a_batch_is_whole_if_a_function_changes_its_list() -> None:
    saved: list[dict[str, Any]] = []

    @engine.transform(batch=True)
    def emptied(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        given = list(records)
        records.clear()
        return given

    @engine.sink
    async def save(records: list[dict[str, Any]]) -> None:
        saved.extend(records)
        records.clear()

    parts: dict[str, Any] = {
        "read": nodes("", print)["read"],
        "empty": engine.node(emptied),
        "save": engine.node(save),
    }
    report = await run(engine.Pipeline("p", **parts))
    assert (report.status, report.tally.written, len(saved)) == (RunStatus.COMPLETED, 5, 5)


async def test_on_error_does_not_hide_that_a_run_has_to_stop() -> None:
    @engine.transform
    def refused(record: dict[str, Any]) -> dict[str, Any]:
        raise engine.FatalError("the key is refused")

    parts = nodes("", print) | {"plain": engine.node(refused, options={"on_error": "dead_letter"})}
    report = await run(engine.Pipeline("p", **parts))
    assert (report.status, report.tally.dead) == (RunStatus.FAILED, 0)


async def test_an_error_never_raised_by_itself_has_a_place() -> None:
    parts = nodes("sink", lambda: raised(ExceptionGroup("SECRET", [ValueError("SECRET")])))
    report = await run(engine.Pipeline("p", **parts))
    assert "ValueError at" in report.error
    assert "SECRET" not in report.error


class Mute:
    """A value that has no text."""

    def __repr__(self) -> str:
        raise LookupError


class Grim(BaseModel):
    """A record that cannot be dumped."""

    n: int

    @field_serializer("n")
    def dumped(self, n: int) -> int:
        raise LookupError


@pytest.mark.parametrize(
    "odd",
    [{"n": 2, "x": Mute()}, {"n": 2, "x": {1: Mute(), "y": 2**80}}, Grim(n=2)],
    ids=["mute", "deep", "grim"],
)
async def test_a_record_of_any_value_fails_alone(odd: object, tmp_path: Path) -> None:
    @engine.transform
    def refused(record: dict[str, Any]) -> object:
        return odd if record["n"] == 2 else record

    @engine.transform
    def dead(record: Any) -> Any:
        if record is odd:
            raise engine.RecordError("it is odd", kind="Caf\udce9")
        return record

    parts = nodes("", print) | {"plain": engine.node(refused), "waiting": engine.node(dead)}
    report = (await engine.run(engine.Pipeline("p", **parts), state_dir=tmp_path))["p"]
    assert (report.status, report.tally.written, report.tally.dead) == (RunStatus.COMPLETED, 4, 1)


@pytest.mark.parametrize("place", ["read", "open", "close"])
async def test_a_cancellation_by_asyncio_passes_a_component(place: str) -> None:
    waiting = anyio.Event()

    async def wait_at(here: str) -> None:
        if here == place:
            waiting.set()
            await anyio.sleep_forever()

    class Rows(Source[Params]):
        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            await wait_at("read")
            yield Batch([{"n": 1}], KeyRange("rows/", 0, 1), position=1)

    class Slow(Sink[Params]):
        async def __aenter__(self) -> Self:
            await wait_at("open")
            return self

        async def write(self, batch: Batch) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            await wait_at("close")

    async with Engine() as own:
        task = asyncio.create_task(own.run(linear_plan(Rows(Params()), Slow(Params()))))
        with anyio.fail_after(300):
            await waiting.wait()
        task.cancel()
        with pytest.raises(CancelledError):
            await task


async def test_a_component_cannot_end_its_task_by_cancelling_it() -> None:
    @engine.transform
    async def ending(record: dict[str, Any]) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        if record["n"] == 2:
            task.cancel()
        await anyio.lowlevel.checkpoint()
        return record

    with anyio.fail_after(300):
        report = await run(engine.Pipeline("p", **nodes("", print) | {"plain": engine.node(ending)}))
    assert report.status is RunStatus.FAILED
