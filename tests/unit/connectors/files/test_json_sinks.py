from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from connectors.console import StdoutParams, StdoutSink
from connectors.files import JsonlSink, JsonlSinkParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import BatchError, FatalError, RecordError


class Blob(BaseModel):
    name: str
    at: datetime


def batch(*records: Any) -> Batch:
    return Batch(list(records), [str(index) for index in range(len(records))])


def sink(path: Path | str) -> JsonlSink:
    return JsonlSink(JsonlSinkParams(path=str(path)))


async def test_records_are_lines_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.jsonl"
    for number in (1, 2):
        async with sink(path) as out:
            await out.write(batch({"n": number}, {"name": "Müller\n"}))
            await out.write(batch())
    assert path.read_text() == '{"n":1}\n{"name":"Müller\\n"}\n{"n":2}\n{"name":"Müller\\n"}\n'


async def test_models_and_times_are_written_as_the_wire_has_them(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    async with sink(tmp_path / "x.jsonl") as out:
        await out.write(batch(Blob(name="x", at=at), {"set": {"b", "a"}, "at": at}))
    lines = [orjson.loads(line) for line in (tmp_path / "x.jsonl").read_bytes().splitlines()]
    assert lines == [
        {"name": "x", "at": "2026-01-02T00:00:00Z"},
        {"set": ["a", "b"], "at": "2026-01-02T00:00:00+00:00"},
    ]


async def test_a_record_that_json_cannot_say_fails_alone(tmp_path: Path) -> None:
    async with sink(tmp_path / "x.jsonl") as out:
        with pytest.raises(BatchError) as raised:
            await out.write(batch({"n": 1}, {"n": object()}, {"n": 3}))
    (failure,) = raised.value.failures.items()
    assert failure[0] == 1
    assert isinstance(failure[1], RecordError)
    assert (tmp_path / "x.jsonl").read_bytes() == b'{"n":1}\n{"n":3}\n'


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (b"", b""),
        (b'{"n":1}\n', b'{"n":1}\n'),
        (b'{"n":1}', b'{"n":1}\n'),
        (b'{"n":1}\n{"n":', b'{"n":1}\n'),
        (b'{"n":', b""),
        (b'{"n":1}\n' + b"x" * 3_000_000, b'{"n":1}\n'),
    ],
)
async def test_half_a_line_that_a_killed_process_left_is_removed(
    tmp_path: Path, left: bytes, expected: bytes
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(left)
    async with sink(path) as out:
        await out.write(batch({"n": 2}))
    assert path.read_bytes() == expected + b'{"n":2}\n'


async def test_a_full_disk_stops_the_run_and_leaves_no_half_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    real: Callable[[int, Any], int] = os.write
    async with sink(path) as out:
        await out.write(batch({"n": 1}))
        written: list[int] = []

        def write(descriptor: int, data: Any) -> int:
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(real(descriptor, data[:4]))
            return 4

        monkeypatch.setattr("os.write", write)
        with pytest.raises(FatalError, match="No space left on device"):
            await out.write(batch({"n": 2}))
        monkeypatch.undo()
    assert written == [4]
    assert path.read_bytes() == b'{"n":1}\n'


async def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"Is a directory"):
        await sink(tmp_path).__aenter__()


async def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(FatalError, match="taken is a file, not a folder"):
        await sink(tmp_path / "taken" / "out.jsonl").__aenter__()


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_compressing_is_refused_and_not_forgotten(suffix: str) -> None:
    with pytest.raises(ValidationError, match="does not compress"):
        JsonlSinkParams(path=f"x.jsonl.{suffix}")


async def test_the_home_directory_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with sink("~/out.jsonl") as out:
        await out.write(batch({"n": 1}))
    assert (tmp_path / "out.jsonl").read_bytes() == b'{"n":1}\n'


async def test_a_device_can_be_written_to() -> None:
    async with sink("/dev/null") as out:
        await out.write(batch({"n": 1}))


class _Stdout:
    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer


async def test_a_dash_is_the_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Stdout(buffer))
    async with sink("-") as out:
        await out.write(batch({"n": 1}))
    assert buffer.getvalue() == b'{"n":1}\n'


@pytest.mark.parametrize(("form", "expected"), [("json", b'{"n":1}\n'), ("pretty", b'{\n  "n": 1\n}\n')])
async def test_stdout_shows_records(monkeypatch: pytest.MonkeyPatch, form: Any, expected: bytes) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Stdout(buffer))
    async with StdoutSink(StdoutParams(format=form)) as out:
        await out.write(batch({"n": 1}))
        with pytest.raises(BatchError):
            await out.write(batch({"n": object()}))
    assert buffer.getvalue() == expected


async def test_a_closed_pipe_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", _Stdout(Closed()))
    async with StdoutSink(StdoutParams()) as out:
        with pytest.raises(FatalError, match="the reader of the standard output has gone away"):
            await out.write(batch({"n": 1}))


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("mode", ["replace", "append"])
async def test_a_run_whose_file_was_replaced_is_refused(tmp_path: Path, mode: Any, distinct: bool) -> None:
    path = tmp_path / "x.jsonl"

    def of_run(run: str, mode: Any, attempt: int = 1) -> JsonlSink:
        made = JsonlSink(JsonlSinkParams(path=str(path), mode=mode))
        made.ctx = Context("p", "n", run, attempt=attempt, distinct_keys=distinct)
        return made

    async with of_run("run-1", mode) as interrupted:
        await interrupted.write(batch({"n": 1}))
    async with of_run("run-2", "replace") as later:
        await later.write(batch({"n": 1}, {"n": 2}))
        await later.run_completed()
    with pytest.raises(FatalError, match=r"another run has replaced .*x\.jsonl since"):
        async with of_run("run-1", mode, attempt=2):
            pass
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n'


async def test_a_run_whose_file_is_replaced_meanwhile_fails(tmp_path: Path) -> None:
    first, second = (
        JsonlSink(JsonlSinkParams(path=str(tmp_path / "x.jsonl"), mode=mode))
        for mode in ("append", "replace")
    )
    first.ctx, second.ctx = (Context("p", "n", run, distinct_keys=True) for run in ("run-1", "run-2"))
    async with first, second:
        await first.write(Batch([{"id": 1}], KeyRange("k/", 0, 1)))
        await second.write(Batch([{"id": 2}] * 3, KeyRange("k/", 0, 3)))
        await second.run_completed()
        with pytest.raises(FatalError, match=r"another run has replaced .*x\.jsonl while this one wrote"):
            await first.run_completed()


async def test_a_file_that_is_cut_off_meanwhile_fails_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    async with JsonlSink(JsonlSinkParams(path=str(path))) as made:
        await made.write(Batch([{"id": 1}], KeyRange("k/", 0, 1)))
        path.write_bytes(b"")
        with pytest.raises(FatalError, match="was cut off while the run wrote to it"):
            await made.write(Batch([{"id": 2}], KeyRange("k/", 1, 2)))
