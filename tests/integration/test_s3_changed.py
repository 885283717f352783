"""The S3 source with `mode: changed`, run after run against moto over real HTTP."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from connectors.s3.source import S3Connector
from engine.contract.component import Context
from engine.contract.types import JsonValue
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import BookmarkFilter, RunStatus
from engine.testing import FaultySink, MemorySink, linear_plan, plan_of
from tests.integration.test_s3 import BUCKET, put, read_all, source
from tests.integration.test_s3 import s3 as s3
from tests.integration.test_s3 import server as server


class Pipeline:
    """The same pipeline, run after run on one state directory."""

    def __init__(self, server: str, state_dir: Path) -> None:
        self.server = server
        self.state_dir = state_dir

    def source(self, pattern: str = "**", **params: Any) -> S3Connector:
        return source(self.server, pattern, **{"mode": "changed", **params})

    async def run(
        self, pattern: str = "**", *, sink: MemorySink | None = None, pipeline: str = "test", **params: Any
    ) -> tuple[RunReport, list[str]]:
        """The report, and the names of the objects that arrived."""
        sink = sink or MemorySink()
        async with Engine(state_dir=self.state_dir) as engine:
            report = await engine.run(linear_plan(self.source(pattern, **params), sink, pipeline=pipeline))
        assert report.tally.balanced
        return report, names(sink)

    async def arrived(self, pattern: str = "**", **options: Any) -> list[str]:
        report, arrived = await self.run(pattern, **options)
        assert report.ok, report.error
        return arrived


def names(sink: MemorySink) -> list[str]:
    return [record["file_path"].removeprefix(f"s3://{BUCKET}/") for record in sink.records]


@pytest.fixture
def pipeline(server: str, s3: Any, tmp_path: Path) -> Pipeline:
    return Pipeline(server, tmp_path)


def backdate(key: str, when: datetime) -> None:
    stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET].keys[key]
    stored.last_modified = when


@pytest.mark.slow
async def test_a_later_run_reads_what_is_new_or_changed_and_nothing_else(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"a.txt": b"1", "b.txt": b"1", "c.txt": b"1"})
    assert await pipeline.arrived() == ["a.txt", "b.txt", "c.txt"]

    put(s3, {"b.txt": b"2", "d.txt": b"1", "a.txt": b"1"})  # a.txt: written again, with the same content
    report, arrived = await pipeline.run()
    assert arrived == ["b.txt", "d.txt"]
    assert report.nodes[0].aggregate["unchanged"] == 2

    assert await pipeline.arrived() == []
    put(s3, {"b.txt": b"1"})  # as it once was
    assert await pipeline.arrived() == ["b.txt"]


@pytest.mark.series
async def test_what_arrives_late_with_an_old_date_is_read(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"new.txt": b"1"})
    await pipeline.arrived()
    put(s3, {"late.txt": b"1"})
    backdate("late.txt", datetime(2001, 1, 1, tzinfo=UTC))

    assert await pipeline.arrived() == ["late.txt"]


@pytest.mark.series
async def test_another_pattern_hides_nothing_that_was_not_delivered(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"in/a.txt": b"1", "in/b.csv": b"1", "out/a.txt": b"1"})

    assert await pipeline.arrived("in/*.txt") == ["in/a.txt"]
    assert await pipeline.arrived("**") == ["in/b.csv", "out/a.txt"]
    put(s3, {"out/a.txt": b"2"})
    assert await pipeline.arrived("in/**") == []
    assert await pipeline.arrived("{in/a.txt,out/a.txt}") == ["out/a.txt"]


@pytest.mark.series
async def test_pipelines_and_nodes_remember_for_themselves(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"a.txt": b"1"})
    await pipeline.arrived()
    assert await pipeline.arrived(pipeline="other") == ["a.txt"]

    renamed = MemorySink()
    async with Engine(state_dir=pipeline.state_dir) as engine:
        await engine.run(plan_of({"renamed": (pipeline.source(), []), "sink": (renamed, ["renamed"])}))
    assert names(renamed) == ["a.txt"]


async def test_without_the_mode_everything_is_read_and_nothing_remembered(
    pipeline: Pipeline, s3: Any
) -> None:
    put(s3, {"a.txt": b"1"})
    for _ in range(2):
        assert await pipeline.arrived(mode="all") == ["a.txt"]
    async with Engine(state_dir=pipeline.state_dir) as engine:
        assert await engine.store.bookmark_scopes(BookmarkFilter()) == []


@pytest.mark.slow
async def test_of_a_run_that_stopped_half_way_the_next_one_reads_the_rest(
    pipeline: Pipeline, s3: Any
) -> None:
    put(s3, {f"{number:02d}.txt": b"1" for number in range(40)})
    stopping = FaultySink([None, FatalError("full")])

    report, first = await pipeline.run(sink=stopping)
    assert report.status is RunStatus.FAILED
    rest = await pipeline.arrived()

    assert (len(first), len(rest)) == (16, 24)  # an object is in the first batch of its split, or it is not
    assert sorted(first + rest) == [f"{number:02d}.txt" for number in range(40)]


@pytest.mark.series
async def test_resumed_run_reads_its_manifest_despite_a_newer_run(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {f"{number:02d}.txt": b"1" for number in range(40)})
    await pipeline.run(sink=FaultySink([None, FatalError("full")]))
    put(s3, {"late.txt": b"1"})
    await pipeline.arrived()

    sink = MemorySink()
    async with Engine(state_dir=pipeline.state_dir) as engine:
        first, _ = await engine.store.list_runs()
        report = await engine.run(linear_plan(pipeline.source(), sink), resume=first)
    assert (report.status, report.tally.written) == (RunStatus.COMPLETED, 40)
    assert names(sink) == [f"{number:02d}.txt" for number in range(16, 40)]
    assert await pipeline.arrived() == []


@pytest.mark.series
async def test_an_object_that_died_after_the_source_was_dealt_with(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"a.txt": b"1", "b.txt": b"poison"})
    report, _ = await pipeline.run(sink=FaultySink(poison=lambda record: record["content"] == "poison"))

    assert (report.tally.written, report.tally.dead) == (1, 1)
    assert await pipeline.arrived() == []


@pytest.mark.slow
async def test_an_object_that_could_not_be_read_comes_again(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"large.txt": b"x" * 11, "small.txt": b"x"})
    for arrived in (["small.txt"], []):
        report, found = await pipeline.run(max_object_bytes=10)
        assert (found, report.tally.dead) == (arrived, 1)

    assert await pipeline.arrived(max_object_bytes=11) == ["large.txt"]


@pytest.mark.slow
async def test_object_changed_after_listing_is_read_by_the_next_run(pipeline: Pipeline, s3: Any) -> None:
    put(s3, {"a.txt": b"1", "b.txt": b"1"})

    class Late(S3Connector):
        async def splits(self, ctx: Context) -> Any:
            async for split in super().splits(ctx):
                yield split
            put(s3, {"b.txt": b"2"})

    listed = pipeline.source()
    late = Late(listed.params, listed.connection)
    sink = MemorySink()
    async with Engine(state_dir=pipeline.state_dir) as engine:
        report = await engine.run(linear_plan(late, sink))

    assert (names(sink), report.tally.dead) == (["a.txt"], 1)
    assert await pipeline.arrived() == ["b.txt"]


class _Counting:
    """Knows nothing; notes how many keys it is asked for at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        self.asked.append(len(keys))
        return {}


@pytest.mark.series
async def test_bookmarks_are_looked_up_one_listing_page_at_a_time(server: str, s3: Any) -> None:
    put(s3, {f"p/{number:04d}": b"" for number in range(1005)})
    bookmarks = _Counting()
    async with source(server, "p/*", mode="changed") as connector:
        ctx = Context(bookmarks=bookmarks)
        batches = await read_all(connector, ctx)
    assert bookmarks.asked == [1000, 5]
    assert sum(map(len, batches)) == 1005
