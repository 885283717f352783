"""The jsonl source with `mode: changed`: files that grow, shrink, rotate or are rewritten."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from connectors.files import JsonlSource, JsonlSourceParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import BookmarkFilter, DeadLetterFilter, RunStatus
from engine.testing import FaultySink, MemorySink, linear_plan


def lines(*numbers: int) -> bytes:
    return b"".join(orjson.dumps({"n": number}) + b"\n" for number in numbers)


class Pipeline:
    """The same pipeline, run after run in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink = MemorySink()
        self.report: RunReport | None = None

    def source(self, path: str = "x.jsonl", **params: Any) -> JsonlSource:
        return JsonlSource(JsonlSourceParams(path=path, **{"mode": "changed", **params}))

    async def run(
        self, path: str = "x.jsonl", *, sink: MemorySink | None = None, resume: str = "", **params: Any
    ) -> list[int]:
        """The numbers that arrived."""
        self.sink = sink or MemorySink()
        async with Engine(state_dir=self.folder / "state") as engine:
            record = await engine.store.get_run(resume) if resume else None
            self.report = await engine.run(linear_plan(self.source(path, **params), self.sink), resume=record)
        assert self.report.tally.balanced
        return [record["n"] for record in self.sink.records]

    def counted(self, name: str) -> float:
        assert self.report is not None
        return self.report.nodes[0].aggregate.get(name, 0)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.chdir(tmp_path)
    return Pipeline(tmp_path)


def write(name: str, data: bytes) -> None:
    Path(name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)


def append(name: str, data: bytes) -> None:
    with open(name, "ab") as file:
        file.write(data)


@pytest.mark.slow
async def test_a_later_run_continues_after_the_last_delivered_line(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(*range(1000)))
    assert await pipeline.run() == list(range(1000))
    assert await pipeline.run() == []
    assert pipeline.counted("unchanged") == 1

    append("x.jsonl", lines(1000, 1001))
    assert await pipeline.run() == [1000, 1001]
    assert pipeline.sink.keys == ["x.jsonl:1001", "x.jsonl:1002"]
    assert pipeline.counted("unchanged") == pipeline.counted("begun_anew") == 0


@pytest.mark.slow
async def test_a_last_line_is_taken_when_it_is_complete(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(1) + b'{"n": ')
    assert await pipeline.run() == [1]
    assert await pipeline.run() == []
    append("x.jsonl", b"2}\n" + b'{"n": 3}')
    assert await pipeline.run() == [2]
    append("x.jsonl", b"\n")
    assert await pipeline.run() == [3]
    assert pipeline.sink.keys == ["x.jsonl:3"]


@pytest.mark.slow
async def test_without_the_mode_everything_is_read_and_nothing_remembered(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(1) + b'{"n": 2}')
    for _ in range(2):
        assert await pipeline.run(mode="all") == [1, 2]
    async with Engine(state_dir=pipeline.folder / "state") as engine:
        assert await engine.store.bookmark_scopes(BookmarkFilter()) == []


@pytest.mark.slow
async def test_new_files_of_a_pattern_are_read_beside_the_known_ones(pipeline: Pipeline) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(name, lines(1))
    await pipeline.run("*.jsonl")
    append("a.jsonl", lines(2))
    write("c.jsonl", lines(3))
    assert await pipeline.run("*.jsonl") == [2, 3]
    assert pipeline.sink.keys == ["a.jsonl:2", "c.jsonl:1"]
    assert pipeline.counted("unchanged") == 1
    append("c.jsonl", lines(4))
    assert await pipeline.run("./c.jsonl") == [4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [lines(7), lines(7, 8, 9), lines(7, 8, 9, 10)], ids=["shorter", "as long", "longer"]
)
async def test_replaced_file_is_re_read_under_new_keys(pipeline: Pipeline, other: bytes) -> None:
    write("x.jsonl", lines(1, 2, 3))
    await pipeline.run()
    write("x.jsonl", other)
    arrived = await pipeline.run()

    assert arrived == [7, 8, 9, 10][: len(arrived)]
    assert pipeline.sink.keys == [f"x.jsonl#2:{line}" for line in range(1, other.count(b"\n") + 1)]
    assert pipeline.counted("begun_anew") == 1

    append("x.jsonl", lines(12))
    assert await pipeline.run() == [12]
    assert pipeline.sink.keys == [f"x.jsonl#2:{len(arrived) + 1}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "tail",
    [lines(2, 4, 5), lines(20, 3), lines(2) + b'{"n":3 }\n'],
    ids=["another last line", "a line end elsewhere", "other blanks"],
)
async def test_file_rewritten_after_its_first_kilobyte_is_replaced(pipeline: Pipeline, tail: bytes) -> None:
    beginning = orjson.dumps({"n": 1, "text": "x" * 5000}) + b"\n"
    write("x.jsonl", beginning + lines(2))
    await pipeline.run()
    append("x.jsonl", lines(3))
    assert await pipeline.run() == [3]

    write("x.jsonl", beginning + tail)
    assert len(await pipeline.run()) == 1 + tail.count(b"\n")
    assert pipeline.sink.keys[0] == "x.jsonl#2:1"


@pytest.mark.slow
async def test_an_emptied_file_is_read_again_when_it_has_lines(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(1, 2))
    await pipeline.run()
    write("x.jsonl", b"")
    assert await pipeline.run() == []
    write("x.jsonl", lines(3))
    assert await pipeline.run() == [3]
    assert pipeline.sink.keys == ["x.jsonl#2:1"]


@pytest.mark.slow
async def test_resume_continues_after_a_bom_and_long_lines(pipeline: Pipeline) -> None:
    write("x.jsonl", b"\xef\xbb\xbf" + lines(1))
    assert await pipeline.run() == [1]
    append("x.jsonl", b'{"n": "' + b"x" * 100 + b'"}\n')
    assert await pipeline.run(max_line_bytes=50) == []
    assert pipeline.report is not None
    assert pipeline.report.tally.dead == 1
    append("x.jsonl", lines(2))
    assert await pipeline.run(max_line_bytes=50) == [2]
    assert pipeline.sink.keys == ["x.jsonl:3"]


@pytest.mark.slow
async def test_a_broken_line_was_dealt_with(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(1) + b"{broken\n" + lines(3))
    assert await pipeline.run() == [1, 3]
    assert await pipeline.run() == []
    append("x.jsonl", b"{again\n")
    assert await pipeline.run() == []
    async with Engine(state_dir=pipeline.folder / "state") as engine:
        letters = await engine.store.dead_letters(DeadLetterFilter())
    assert [letter.key for letter in letters] == ["x.jsonl:2", "x.jsonl:4"]


@pytest.mark.slow
async def test_a_packed_file_is_read_again_as_a_whole_when_it_has_changed(pipeline: Pipeline) -> None:
    write("a.jsonl.gz", lines(*range(600)) + b'{"n": 600}')
    assert await pipeline.run("*.gz") == list(range(601))
    write("b.jsonl.gz", lines(700))
    assert await pipeline.run("*.gz") == [700]
    os.utime("b.jsonl.gz", (0, 0))
    assert await pipeline.run("*.gz") == []
    assert pipeline.counted("unchanged") == 2

    write("b.jsonl.gz", lines(701))
    assert await pipeline.run("*.gz") == [701]
    assert pipeline.sink.keys == ["b.jsonl.gz#2:1"]


@pytest.mark.slow
async def test_of_a_packed_file_that_was_half_read_a_new_run_reads_the_rest(pipeline: Pipeline) -> None:
    write("x.jsonl.gz", lines(*range(20)))
    stopping = FaultySink([None, FatalError("full")])
    first = await pipeline.run("x.jsonl.gz", sink=stopping, page_records=5)
    assert first == list(range(5))
    assert await pipeline.run("x.jsonl.gz", page_records=5) == list(range(5, 20))
    assert await pipeline.run("x.jsonl.gz") == []


@pytest.mark.slow
async def test_of_a_run_that_stopped_half_way_the_next_one_reads_the_rest(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(*range(20)))
    first = await pipeline.run(sink=FaultySink([None, None, FatalError("full")]), page_records=5)
    assert first == list(range(10))
    append("x.jsonl", lines(20))
    assert await pipeline.run() == list(range(10, 21))
    assert pipeline.sink.keys[0] == "x.jsonl:11"


@pytest.mark.slow
async def test_resumed_run_keeps_its_end_and_newer_bookmarks(
    pipeline: Pipeline,
) -> None:
    write("x.jsonl", lines(0))
    await pipeline.run()
    append("x.jsonl", lines(*range(1, 20)))
    await pipeline.run(sink=FaultySink([None, FatalError("full")]), page_records=5)
    assert pipeline.report is not None
    stopped = pipeline.report.run_id
    append("x.jsonl", lines(20))
    assert await pipeline.run() == list(range(6, 21))

    assert await pipeline.run(resume=stopped) == list(range(6, 20))
    assert pipeline.report.status is RunStatus.COMPLETED
    assert all(pipeline.sink.replays)
    assert await pipeline.run() == []


@pytest.mark.slow
@pytest.mark.parametrize("since", [0, 4])
async def test_a_run_is_not_resumed_in_a_file_that_was_replaced(pipeline: Pipeline, since: int) -> None:
    if since:
        write("x.jsonl", lines(*range(since)))
        await pipeline.run()
    write("x.jsonl", lines(*range(20)))
    await pipeline.run(sink=FaultySink([None, FatalError("full")]), page_records=5)
    assert pipeline.report is not None
    stopped = pipeline.report.run_id
    write("x.jsonl", lines(*range(100, 150)))

    assert await pipeline.run(resume=stopped) == []
    assert "x.jsonl was replaced after the run started" in pipeline.report.error
    assert await pipeline.run() == list(range(100, 150))
    assert pipeline.sink.keys[0] == "x.jsonl#2:1"


async def test_file_replaced_before_reading_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(1, 2, 3))
    made = JsonlSource(JsonlSourceParams(path=str(path), mode="changed"))
    (split,) = [one async for one in made.splits(made.ctx)]
    path.write_bytes(lines(4, 5, 6))
    with pytest.raises(FatalError, match="start a new run to read the current content"):
        _: list[Batch] = [batch async for batch in made.read(split, None, Context())]


async def test_lines_that_come_while_it_is_read_are_left_to_the_next_run(pipeline: Pipeline) -> None:
    write("x.jsonl", lines(1, 2))
    made = pipeline.source()
    (split,) = [one async for one in made.splits(made.ctx)]
    append("x.jsonl", lines(3))
    (batch,) = [batch async for batch in made.read(split, None, made.ctx)]
    assert batch.records == [{"n": 1}, {"n": 2}]
    assert batch.bookmarks[0].value["offset"] == len(lines(1, 2))


def test_the_standard_input_cannot_be_resumed() -> None:
    with pytest.raises(ValidationError, match="`mode: changed` needs files"):
        JsonlSourceParams(path="-", mode="changed")
