"""Sinks on disks that vanish, are full or refuse writes: a clear error and a failed run.

Nothing here needs privileges, or the lack of them: `/proc` takes no files from anybody, `/dev/full` has no
room for anybody, and a file that was removed can still be written by whoever has it open.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from connectors.duckdb import DuckdbSink, DuckdbSinkParams
from connectors.files import JsonlSink, JsonlSinkParams
from connectors.files.sink import FilesSink, FilesSinkParams
from engine.contract.component import NoParams, Sink, Source
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.state import RunStatus
from engine.testing import MemorySource, linear_plan
from tests.table_targets import batch_of

Make = Callable[[Path], Sink[Any]]
Lose = Callable[[Path], object]

KINDS: dict[str, Make] = {
    "jsonl": lambda folder: JsonlSink(JsonlSinkParams(path=str(folder / "x.jsonl"))),
    "files": lambda folder: FilesSink(FilesSinkParams(path=str(folder))),
    "duckdb": lambda folder: DuckdbSink(DuckdbSinkParams(path=str(folder / "x.duckdb"), table="t")),
}
LOSSES: dict[str, Lose] = {
    "removed": rmtree,
    "moved": lambda folder: folder.rename(folder.with_name("aside")),
    "replaced": lambda folder: (folder.rename(folder.with_name("aside")), folder.write_text("")),
}

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such places")


class Losing(Source[NoParams]):
    """Two pages; before the second one the folder is gone."""

    repeatable = True

    def __init__(self, lose: Callable[[], object]) -> None:
        super().__init__(NoParams())
        self._lose = lose

    async def extract(self) -> AsyncGenerator[list[dict[str, int]], None]:  # type: ignore[override]
        yield [{"id": number} for number in range(300)]
        self._lose()
        yield [{"id": number} for number in range(300, 600)]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_folder_that_vanishes_fails_the_run(tmp_path: Path, kind: str, loss: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    plan = linear_plan(Losing(lambda: LOSSES[loss](folder)), KINDS[kind](folder))
    async with Engine() as engine:
        report = await engine.run(plan)
    assert report.status is RunStatus.FAILED
    assert str(folder) in report.error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "duckdb"])
async def test_a_file_that_another_took_the_place_of_gets_nothing_more(tmp_path: Path, kind: str) -> None:
    async with KINDS[kind](tmp_path) as sink:
        await sink.write(batch_of([{"id": 1}]))
        file = tmp_path / f"x.{kind}"
        file.rename(tmp_path / "aside")
        file.touch()
        with pytest.raises(FatalError, match="was removed or replaced while"):
            await sink.write(batch_of([{"id": 2}]))
        with pytest.raises(FatalError, match="was removed or replaced while"):
            await sink.run_completed()
    assert file.read_bytes() == b""


async def test_a_file_that_was_put_back_is_continued(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    async with KINDS["jsonl"](tmp_path) as sink:
        await sink.write(batch_of([{"id": 1}]))
        file.rename(tmp_path / "aside")
        (tmp_path / "aside").rename(file)
        await sink.write(batch_of([{"id": 2}]))
    assert file.read_text() == '{"id":1}\n{"id":2}\n'


@linux
@pytest.mark.parametrize("kind", KINDS)
async def test_a_place_that_takes_no_files_is_named(kind: str) -> None:
    async with Engine() as engine:
        report = await engine.run(linear_plan(MemorySource([[{"id": 1}]]), KINDS[kind](Path("/proc/odw"))))
    assert report.status is RunStatus.FAILED
    assert "/proc/odw" in report.error


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no device without room")
async def test_a_disk_without_room_fails_the_run() -> None:
    sink = JsonlSink(JsonlSinkParams(path="/dev/full"))
    async with Engine() as engine:
        report = await engine.run(linear_plan(MemorySource([[{"id": 1}]]), sink))
    assert report.status is RunStatus.FAILED
    assert "cannot write /dev/full: No space left on device" in report.error
    assert report.tally.written == 0
