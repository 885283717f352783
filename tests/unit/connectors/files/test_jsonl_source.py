from __future__ import annotations

import gzip
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from connectors.files import JsonlSource, JsonlSourceParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.split import Split
from engine.errors import FatalError, RecordError


def source(path: Path | str, **params: Any) -> JsonlSource:
    return JsonlSource(JsonlSourceParams(path=str(path), **params))


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(orjson.dumps(record) + b"\n" for record in records)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


async def splits_of(made: JsonlSource) -> list[Split]:
    return [split async for split in made.splits(made.ctx)]


async def batches_of(made: JsonlSource, split: Split | None = None, position: Any = None) -> list[Batch]:
    splits = [split] if split is not None else await splits_of(made)
    return [batch for one in splits async for batch in made.read(one, position, made.ctx)]


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys.to_list()]


def records(batches: list[Batch]) -> list[Any]:
    return [record for batch in batches for record in batch.records]


def failures(batches: list[Batch]) -> list[tuple[str, str]]:
    return [
        (error.kind, str(error))
        for batch in batches
        for _, error in batch.failures
        if isinstance(error, RecordError)
    ]


async def test_each_line_is_a_record_named_by_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"n": n} for n in range(5)])
    batches = await batches_of(source(path, page_records=2))
    assert records(batches) == [{"n": n} for n in range(5)]
    assert keys(batches) == [f"{path}:{line}" for line in range(1, 6)]
    assert [n for batch in batches for n in batch.keys.ordinals()] == list(range(5))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [batch.position for batch in batches] == [[16, 2], [32, 4], [40, 5]]


async def test_pages_are_full_after_any_buffered_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"n": n, "text": "x" * 400} for n in range(100)])
    made = source(path, page_records=20)
    (split,) = await splits_of(made)
    batches = await batches_of(made, split)
    rest = await batches_of(made, split, batches[0].position)
    assert [len(batch) for batch in batches] == [20] * 5
    assert [len(batch) for batch in rest] == [20] * 4


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
async def test_a_read_continues_at_any_position(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"n": n} for n in range(9)])
    made = source(path, page_records=2)
    batches = await batches_of(made)
    (split,) = await splits_of(made)
    for index, batch in enumerate(batches):
        rest = await batches_of(made, split, batch.position)
        assert records(rest) == records(batches[index + 1 :])
        assert keys(rest) == keys(batches[index + 1 :])


async def test_a_record_can_name_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"id": "a"}, {"id": 7}, {}, {"id": None}, {"id": True}, {"id": ""}])
    made = source(path, key="id")
    (batch,) = await batches_of(made)
    assert batch.keys.to_list() == ["a", "7", *(f"{path}:{line}" for line in (3, 4, 5, 6))]
    assert [index for index, _ in batch.failures] == [2, 3, 4, 5]
    assert failures([batch])[0] == ("MissingKey", f"{path}:3: no text or number in 'id'")
    assert not made.distinct_keys


async def test_a_broken_line_fails_alone_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n{"private": oops}\n\n  \r\n[1]\n5\n{"n": 2}\r\n{"n": 3')
    batches = await batches_of(source(path))
    assert [record.get("n") for record in records(batches)] == [1, None, None, None, 2, None]
    assert keys(batches) == [f"{path}:{line}" for line in (1, 2, 5, 6, 7, 8)]
    # the last line has no end, so it came when the file did
    assert [[index for index, _ in batch.failures] for batch in batches] == [[1, 2, 3], [0]]
    (kind, message), (_, second), *_ = failures(batches)
    assert kind == "BrokenLine"
    assert message.startswith(f"{path}:2:13: ")
    assert "private" not in message
    assert second == (
        f"{path}:5: expected a JSON object, got a list; the sources `files` and `s3` read its items with"
        " `format: json`"
    )
    stub = batches[0].records[1]
    assert (stub["line"], stub["content"]) == (2, '{"private": oops}')
    assert [len(batch.keys.ordinals()) for batch in batches] == [5, 1]


async def test_a_too_long_line_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"n": 1}, {"text": "x" * 1000}, {"n": 2}])
    (batch,) = await batches_of(source(path, max_line_bytes=100))
    assert [index for index, _ in batch.failures] == [1]
    assert failures([batch]) == [("LongLine", f"{path}:2: the line is longer than 100 bytes")]


async def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert await batches_of(source(write(tmp_path / "x.jsonl", []))) == []


async def test_a_pattern_lists_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", "d.txt", "deep/.e.jsonl"):
        write(tmp_path / name, [{"name": name}])
    (tmp_path / "folder.jsonl").mkdir()
    found = records(await batches_of(source(f"{tmp_path}/**/*.jsonl")))
    assert [record["name"] for record in found] == ["a.jsonl", "b.jsonl", "deep/.e.jsonl", "deep/er/c.jsonl"]
    found = records(await batches_of(source(f"{tmp_path}/{{a,d}}.{{jsonl,txt}}")))
    assert [record["name"] for record in found] == ["a.jsonl", "d.txt"]
    assert await splits_of(source(f"{tmp_path}/nothing*")) == []


async def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x[1].jsonl", [{"n": 1}])
    assert records(await batches_of(source(path))) == [{"n": 1}]


@pytest.mark.parametrize(
    ("path", "message"),
    [("no.jsonl", r"no such file: '.*no\.jsonl'"), ("{1..2000}", "expand to more than 1000 names")],
)
async def test_a_path_that_cannot_be_meant_is_an_error(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(FatalError, match=message):
        await splits_of(source(tmp_path / path))


async def test_a_growing_file_is_read_to_where_it_ended(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"n": 1}, {"n": 2}])
    made = source(path)
    (split,) = await splits_of(made)
    with path.open("ab") as file:
        file.write(b'{"n": 3}\n')
    assert records(await batches_of(made, split)) == [{"n": 1}, {"n": 2}]


async def test_a_file_that_shrank_or_vanished_stops_the_run(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"n": 1}, {"n": 2}])
    made = source(path)
    (split,) = await splits_of(made)
    path.write_bytes(b"{}\n")
    with pytest.raises(FatalError, match="has 3 bytes but had 16 when the run started"):
        await batches_of(made, split)
    path.unlink()
    with pytest.raises(FatalError, match="No such file"):
        await batches_of(made, split)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("left", [0, 34_000, 40_002], ids=["emptied", "cut", "cut in a line"])
async def test_a_file_that_is_cut_off_meanwhile_is_named(tmp_path: Path, encoding: str, left: int) -> None:
    """As a log rotation by copying does: without a word, the lines that were not read yet would be lost."""
    line = '{"n": 123456789}\n'  # of 17 bytes
    path = tmp_path / "x.jsonl"
    path.write_bytes((line * 100_000).encode(encoding))
    made = source(path)
    (split,) = await splits_of(made)
    async with aclosing(made.read(split, None, Context())) as reading:
        batches = [await anext(reading)]
        os.truncate(path, left)
        batches += [batch async for batch in reading]
    assert set(map(str, records(batches[:-1]))) == {"{'n': 123456789}"}
    ((kind, message),) = failures(batches)
    assert kind == "FileChanged"
    assert f"{path} was truncated from" in message


async def test_lines_before_damage_are_read_and_the_rest_is_a_dead_letter(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl.gz", [{"n": n} for n in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    *whole, lost = await batches_of(source(path))
    found = records(whole)
    assert found == [{"n": n} for n in range(len(found))]
    assert len(found) > 800
    assert failures([lost]) == [("FileDamaged", f"{path} is damaged: its gzip data ends early")]
    assert keys([lost]) == [str(path)]


async def test_a_single_file_of_which_nothing_can_be_read_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(b"\0no gzip at all")
    with pytest.raises(FatalError, match="is damaged"):
        await batches_of(source(path))


async def test_a_draining_read_ends_at_a_page(tmp_path: Path) -> None:
    made = source(write(tmp_path / "x.jsonl", [{"n": n} for n in range(9)]), page_records=2)
    (split,) = await splits_of(made)
    draining = False
    async with aclosing(made.read(split, None, Context(draining=lambda: draining))) as reading:
        assert (await anext(reading)).position == [16, 2]
        draining = True
        assert await anext(reading, None) is None


async def test_extract_yields_all_records_without_a_pipeline(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [{"name": name}])
    found = [page async for page in source(f"{tmp_path}/*.jsonl").extract()]
    assert found == [[{"name": "a"}], [{"name": "b"}]]
    (tmp_path / "a.jsonl").write_bytes(b"oops\n")
    with pytest.raises(RecordError, match=r"a\.jsonl:1:1: "):
        _ = [page async for page in source(f"{tmp_path}/*.jsonl").extract()]


async def _cancel_when_blocked(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


class TestStandardInput:
    @pytest.fixture
    def pipe(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as feed:
            monkeypatch.setattr("sys.stdin", stdin)
            yield feed

    async def test_records_come_before_the_input_ends(self, pipe: Any) -> None:
        made = source("-")
        assert not made.repeatable
        (split,) = await splits_of(made)
        async with aclosing(made.read(split, None, made.ctx)) as reading:
            pipe.write(b'{"n": 1}\n{"n"')
            first = await anext(reading)
            assert (first.records, first.keys.to_list()) == ([{"n": 1}], ["-:1"])
            pipe.write(b": 2}\n")
            assert (await anext(reading)).records == [{"n": 2}]
            pipe.close()
            assert await anext(reading, None) is None

    async def test_waiting_for_input_can_be_cancelled(self, pipe: Any) -> None:
        made = source("-")
        (split,) = await splits_of(made)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                async with aclosing(made.read(split, None, made.ctx)) as reading:
                    group.start_soon(_cancel_when_blocked, scope)
                    await anext(reading)
        assert scope.cancelled_caught

    @pytest.mark.parametrize("path", ["x.jsonl", "/dev/null"])
    async def test_it_may_be_a_file_or_a_device(
        self, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "x.jsonl", [{"n": 1}])
        with (tmp_path / path).open("rb") as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            expected = [] if path == "/dev/null" else [{"n": 1}]
            assert records(await batches_of(source("-"))) == expected


@pytest.mark.parametrize("key", [None, "n"])
@pytest.mark.parametrize("line", ['{"n": 1}\n', '\n{"n": 1}\nbroken\n'])
async def test_first_lines_of_files_have_distinct_positions(
    tmp_path: Path, line: str, key: str | None
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text(line)
    batches = await batches_of(source(tmp_path / "*.jsonl", key=key))
    assert [batch.keys.ordinals()[0] for batch in batches] == [0, 1, 2, 3, 4]
    assert [batch.keys.slice(0, 1).ordinals()[0] for batch in batches] == [0, 1, 2, 3, 4]
