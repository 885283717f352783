"""Pipelines written in Python, run in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import engine
from engine.state.memory import MemoryStateStore
from engine.state.records import Follower, RunRecord


@engine.source(repeatable=True)
async def numbers(*, count: int = 10) -> AsyncGenerator[dict[str, int], None]:
    for n in range(count):
        yield {"n": n}


@engine.transform
def unlucky(record: dict[str, int]) -> dict[str, int]:
    if record["n"] == 3:
        raise engine.RecordError("three")
    return record


@engine.filter
def everything(record: dict[str, int]) -> bool:
    return True


@engine.sink
def nowhere(records: list[Any]) -> None:
    """Takes everything."""


def pipeline(**nodes: engine.Node) -> engine.Pipeline:
    return engine.Pipeline("demo", numbers=engine.node(numbers, count=6), **nodes)  # type: ignore[arg-type]


async def test_record_dead_upstream_does_not_die_again_downstream() -> None:
    demo = pipeline(
        unlucky=engine.node(unlucky), everything=engine.node(everything), nowhere=engine.node(nowhere)
    )

    report = (await engine.run(demo))["demo"]

    assert (report.tally.written, report.tally.dead, report.dead_letters) == (5, 1, 1)
    assert [(node.name, node.dead) for node in report.nodes if node.dead] == [("unlucky", 1)]


async def test_branches_deliver_each_record_once_each() -> None:
    left: list[int] = []
    right: list[int] = []

    @engine.sink(name="left")
    def keep_left(records: list[dict[str, int]]) -> None:
        left.extend(record["n"] for record in records)

    @engine.sink(name="right")
    async def keep_right(records: list[dict[str, int]]) -> None:
        right.extend(record["n"] for record in records)

    demo = pipeline(
        left=engine.node(keep_left, input="numbers"), right=engine.node(keep_right, input="numbers")
    )

    report = (await engine.run(demo))["demo"]

    assert left == right == list(range(6))
    assert (report.tally.read, report.tally.forked, report.tally.written) == (6, 6, 12)
    assert report.tally.balanced


async def test_bug_in_a_function_ends_the_run_and_names_node_and_line() -> None:
    @engine.transform
    def broken(record: dict[str, int]) -> int:
        return record["missing"]

    report = (await engine.run(pipeline(broken=engine.node(broken), nowhere=engine.node(nowhere))))["demo"]

    assert report.status is engine.RunStatus.FAILED
    assert report.error.startswith("node 'broken' failed: KeyError at ")
    assert "test_pipelines_in_python.py:" in report.error


@pytest.mark.parametrize("kind", ["function", "async function", "filter"])
async def test_bug_names_the_record_by_its_place(kind: str) -> None:
    def check(record: dict[str, int]) -> dict[str, int]:
        return {"n": 1 // (record["n"] - 4)}

    async def check_later(record: dict[str, int]) -> dict[str, int]:
        return check(record)

    component: Any = {
        "function": engine.transform(check),
        "async function": engine.transform(check_later),
        "filter": engine.filter(lambda record: check(record)),
    }[kind]
    demo = pipeline(check=engine.node(component), nowhere=engine.node(nowhere))

    report = (await engine.run(demo))["demo"]

    assert report.error.startswith("node 'check' failed: ZeroDivisionError at ")
    assert report.error.endswith(", at record 4 of its source, counted from 0")


async def test_an_error_of_a_library_names_the_users_line() -> None:
    @engine.transform
    def parse(record: dict[str, int]) -> Any:
        return json.loads("{" * record["n"])

    demo = pipeline(check=engine.node(parse), nowhere=engine.node(nowhere))
    report = (await engine.run(demo))["demo"]

    line = parse.__code__.co_firstlineno + 2
    assert f"JSONDecodeError at {__file__}:{line}, at record 0" in report.error


async def test_bug_is_told_without_what_the_record_said() -> None:
    @engine.transform
    def ages(record: dict[str, int]) -> int:
        return int("Jane Roe")

    report = (await engine.run(pipeline(ages=engine.node(ages), nowhere=engine.node(nowhere))))["demo"]

    assert "ValueError" in report.error
    assert "Jane Roe" not in report.error
    assert "Jane Roe" in str(report.failure.__cause__)  # type: ignore[union-attr]


async def test_two_plain_sources_of_one_run_share_no_key() -> None:
    @engine.source(name="more")
    async def more() -> AsyncGenerator[dict[str, int], None]:
        for n in range(3):
            yield {"n": n}

    @engine.source(name="others")
    async def others() -> AsyncGenerator[dict[str, int], None]:
        for n in range(3):
            yield {"n": n}

    @engine.sink
    def refuse(records: list[dict[str, int]]) -> None:
        raise engine.BatchError({index: engine.RecordError("no") for index in range(len(records))})

    demo = engine.Pipeline(
        "demo",
        more=engine.node(more),
        others=engine.node(others),
        refuse=engine.node(refuse, input=["more", "others"]),
    )

    report = (await engine.run(demo))["demo"]

    assert (report.tally.dead, report.dead_letters) == (6, 6)


async def test_unrepeatable_source_stops_instead_of_repeating() -> None:
    tries = 0

    @engine.source
    async def shaky() -> AsyncGenerator[dict[str, int], None]:
        nonlocal tries
        tries += 1
        yield {"n": 0}
        await anyio.lowlevel.checkpoint()
        raise engine.TransientError("connection lost")

    got: list[dict[str, int]] = []

    @engine.sink
    def keep(records: list[dict[str, int]]) -> None:
        got.extend(records)

    demo = engine.Pipeline("demo", shaky=engine.node(shaky), keep=engine.node(keep))

    report = (await engine.run(demo))["demo"]

    assert (report.status, got, tries) == (engine.RunStatus.FAILED, [{"n": 0}], 1)
    assert "'shaky' failed: it cannot resume from the middle: connection lost" in report.error


async def test_leaving_a_stream_early_closes_the_source() -> None:
    closed = []

    @engine.source
    async def watched() -> AsyncGenerator[dict[str, int], None]:
        try:
            for n in range(1000):
                yield {"n": n}
        finally:
            closed.append(True)

    demo = engine.Pipeline("demo", watched=engine.node(watched))
    async with engine.stream(demo, "watched") as records:
        async for record in records:
            if record["n"] == 2:
                break

    assert closed == [True]


async def test_error_of_a_run_is_raised_where_its_stream_is_read() -> None:
    @engine.source
    async def failing() -> AsyncGenerator[dict[str, int], None]:
        yield {"n": 1}
        raise engine.FatalError("no such place")

    demo = engine.Pipeline("demo", failing=engine.node(failing))
    async with engine.stream(demo, "failing") as records:
        assert await anext(records) == {"n": 1}
        with pytest.raises(engine.RunError, match="no such place"):
            await anext(records)


async def test_error_of_the_loop_body_leaves_a_stream_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with engine.stream(pipeline(), "numbers") as records:
            await anext(records)
            raise ZeroDivisionError


async def test_unknown_component_is_a_config_error_with_the_nearest_name() -> None:
    demo = pipeline(save=engine.node("sink.jsonnl", path="x"))

    with pytest.raises(engine.ConfigError, match="did you mean"):
        demo.plan()


async def test_two_runs_in_one_loop_do_not_touch_each_other() -> None:
    reports: dict[int, engine.RunReport] = {}

    async def one(count: int) -> None:
        demo = engine.Pipeline(
            "demo", numbers=engine.node(numbers, count=count), nowhere=engine.node(nowhere)
        )
        reports[count] = (await engine.run(demo))["demo"]

    async with anyio.create_task_group() as group:
        for count in (3, 500, 0):
            group.start_soon(one, count)

    assert {count: report.tally.written for count, report in reports.items()} == {3: 3, 500: 500, 0: 0}


async def test_an_error_raised_inside_an_engine_leaves_it_as_it_is() -> None:
    demo = pipeline(nowhere=engine.node(nowhere)).plan()
    other = engine.Pipeline("demo", numbers=engine.node(numbers), nowhere=engine.node(nowhere)).plan()

    with pytest.raises(engine.StateError, match="was started with a different plan"):
        async with engine.Engine() as owner:
            report = await owner.run(demo)
            await owner.run(other, resume=await owner.store.get_run(report.run_id))


async def test_unstorable_run_raises_a_single_state_error() -> None:
    class Full(MemoryStateStore):
        async def create_run(self, run: RunRecord, *, follows: Follower | None = None) -> None:
            raise engine.StateError("no space is left")

    async with engine.Engine(store=Full()) as owner:
        with pytest.raises(engine.StateError, match="no space is left"):
            await engine.run(pipeline(nowhere=engine.node(nowhere)), engine=owner)


@pytest.mark.slow
async def test_the_share_of_dead_letters_is_of_what_lists_made() -> None:
    @engine.transform
    def ten(record: dict[str, int]) -> list[dict[str, int]]:
        return [{"n": record["n"], "part": part} for part in range(10)]

    @engine.transform
    def three_die(record: dict[str, int]) -> dict[str, int]:
        if record["part"] < 3:
            raise engine.RecordError("one of three")
        return record

    def demo(share: str) -> engine.Pipeline:
        return engine.Pipeline(
            "demo",
            settings={"dead_letters": {"max": share}},
            numbers=engine.node(numbers, count=100),
            ten=engine.node(ten),
            three_die=engine.node(three_die),
            nowhere=engine.node(nowhere),
        )

    inside, beyond = await engine.run(demo("30%")), await engine.run(demo("29%"))
    assert (inside["demo"].error, inside["demo"].tally.dead) == ("", 300)
    assert "29% of 1,000 are allowed" in beyond["demo"].error
