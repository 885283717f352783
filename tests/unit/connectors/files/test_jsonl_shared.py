"""Several nodes, parts of a run, or processes that append to one file."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.to_thread
import orjson
import pytest

from connectors.files import JsonlSink, JsonlSinkParams
from connectors.files.written import locked
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.errors import FatalError

LINE = b'{"n":1}\n'


def sink(path: Path, chunk: str = "") -> JsonlSink:
    made = JsonlSink(JsonlSinkParams(path=str(path)))
    if chunk:
        made.ctx = Context(run_id="r1", node="out", chunk=chunk)
    return made


def batch(name: str, count: int) -> Batch:
    return Batch(
        [{"of": name, "n": number} for number in range(count)], [f"{name}{number}" for number in range(count)]
    )


async def test_a_batch_half_written_by_another_is_not_removed(tmp_path: Path) -> None:
    path, entered = tmp_path / "x.jsonl", anyio.Event()

    async def enter() -> None:
        async with sink(path):
            entered.set()

    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with anyio.create_task_group() as group:
        with locked(descriptor):
            os.write(descriptor, LINE[:4])
            group.start_soon(enter)
            with anyio.move_on_after(0.05):
                await entered.wait()
            assert path.read_bytes() == LINE[:4]
            os.write(descriptor, LINE[4:])
        await entered.wait()
    os.close(descriptor)
    assert path.read_bytes() == LINE


async def test_half_a_line_of_a_writer_killed_meanwhile_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    async with sink(path) as out:
        await out.write(batch("a", 1))
        with path.open("ab") as other:
            other.write(LINE + LINE[:4])
        await out.write(batch("b", 1))
    assert [orjson.loads(line) for line in path.read_bytes().splitlines()] == [
        {"of": "a", "n": 0},
        {"n": 1},
        {"of": "b", "n": 0},
    ]


async def test_a_writer_that_never_finishes_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.files.written.WAIT", 0.01)
    path = tmp_path / "x.jsonl"
    async with sink(path) as out:
        descriptor = os.open(path, os.O_WRONLY)
        with locked(descriptor), pytest.raises(FatalError, match="another process has held the lock for"):
            await out.write(batch("a", 1))
        os.close(descriptor)
    assert path.read_bytes() == b""


def _append(path: Path, name: str) -> None:
    async def append() -> None:
        for part in range(50):  # each part of a run opens the file
            async with sink(path, f"{name}{part}") as out:
                await out.write(batch(f"{name}{part}", 1000))

    anyio.run(append)


@pytest.mark.slow
async def test_parts_of_a_run_that_share_a_file_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(anyio.to_thread.run_sync, _append, path, name)
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert len({(line["of"], line["n"]) for line in lines}) == len(lines) == 3 * 50 * 1000
