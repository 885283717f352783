"""The sinks that write files of records."""

# ruff: noqa: ASYNC240 - tests may wait for their own small files

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.files import JsonlSink, JsonlSinkParams
from connectors.files.sink import FilesSink, FilesSinkParams, _FolderOfParts
from connectors.files.source import FilesParams, FilesSource
from connectors.files.walking import walk
from connectors.objects.encoding import encode_csv
from connectors.objects.listed import ListedObject, Selection
from connectors.objects.parquet_encoding import MAX_DEPTH, encode_parquet
from connectors.objects.part_files import run_token
from connectors.s3.sink import PART_BYTES, ObjectsBelow, S3SinkParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyList, KeyRange
from engine.errors import BatchError, FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.testing import MemorySource, linear_plan
from tests.examples import WITH_FIXTURES

DAY = dt.datetime(2026, 1, 1, 5)  # noqa: DTZ001 - of no zone


def sink(folder: Path, run: str = "run-1", *, attempt: int = 1, **params: Any) -> FilesSink:
    made = FilesSink(FilesSinkParams(path=str(folder), **params))
    made.ctx = Context("p", "n", run, attempt=attempt)
    return made


def batch(start: int, stop: int) -> Batch:
    return Batch([{"id": number} for number in range(start, stop)], KeyRange("k/", start, stop))


def files(folder: Path) -> dict[str, list[int]]:
    """The ids in each visible file."""
    return {
        file.name: [json.loads(line)["id"] for line in file.read_bytes().splitlines()]
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
    }


def ids(folder: Path) -> list[int]:
    return sorted(number for found in files(folder).values() for number in found)


async def test_a_batch_is_a_file_and_its_limits_are_the_rotation(tmp_path: Path) -> None:
    made = sink(tmp_path, rotate_records=10, rotate_bytes="1MiB", rotate_seconds=5)
    assert (made.limits.records, made.limits.nbytes, made.limits.linger) == (10, 1 << 20, 5)
    async with made:
        await made.write(batch(0, 10))
        await made.write(batch(10, 20))
    assert list(files(tmp_path).values()) == [list(range(10)), list(range(10, 20))]


@pytest.mark.slow
async def test_what_is_larger_than_a_file_may_be_is_several(tmp_path: Path) -> None:
    async with sink(tmp_path, rotate_bytes=100) as made:
        await made.write(batch(0, 100))
    assert ids(tmp_path) == list(range(100))
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir() if file.is_file())


async def test_a_batch_that_is_written_again_replaces_its_file(tmp_path: Path) -> None:
    async with sink(tmp_path) as made:
        await made.write(batch(0, 10))
        await made.write(batch(0, 10))
        for number in range(10):  # as a batch is halved when it does not go through
            await made.write(batch(number, number + 1))
    assert ids(tmp_path) == list(range(10))


@pytest.mark.slow
@given(
    cuts=st.lists(st.integers(1, 49), max_size=6), other=st.lists(st.integers(1, 49), max_size=6),
    stop=st.integers(0, 7),
)  # fmt: skip
@settings(suppress_health_check=WITH_FIXTURES, max_examples=25)
async def test_a_resumed_run_doubles_nothing_however_batches_are_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], other: list[int], stop: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")

    def pieces(at: list[int]) -> list[tuple[int, int]]:
        places = [0, *sorted(set(at)), 50]
        return list(pairwise(places))

    async with sink(folder) as made:
        for start, end in pieces(cuts)[:stop]:
            await made.write(batch(start, end))
    async with sink(folder, attempt=2) as made:
        for start, end in pieces(other):
            await made.write(batch(start, end))
        await made.run_completed()
    assert ids(folder) == list(range(50))
    assert not list(folder.glob(".odw*"))


async def test_a_file_that_is_older_than_its_note_is_written_again(tmp_path: Path) -> None:
    async with sink(tmp_path) as made:
        await made.write(batch(0, 10))
        (note,) = tmp_path.glob(".odw-*/*.json")
        stored = note.read_bytes()
        await made.write(batch(0, 5))
    note.write_bytes(stored)  # killed between the note and the file
    async with sink(tmp_path, attempt=2) as made:
        await made.write(batch(0, 10))
    assert ids(tmp_path) == list(range(10))


async def test_a_note_without_its_file_means_nothing(tmp_path: Path) -> None:
    async with sink(tmp_path) as made:
        await made.write(batch(0, 10))
    for file in tmp_path.glob("part-*"):
        file.unlink()
    (note,) = tmp_path.glob(".odw-*/*.json")
    note.with_name("part-half.json").write_bytes(b'{"size": 1, "rec')
    async with sink(tmp_path, attempt=2) as made:
        await made.write(batch(0, 10))
    assert ids(tmp_path) == list(range(10))


async def test_notes_of_an_unfinished_run_are_no_records(tmp_path: Path) -> None:
    lines = JsonlSink(JsonlSinkParams(path=str(tmp_path / "more.jsonl")))
    lines.ctx = Context("p", "n", "run-1")
    async with sink(tmp_path) as parts, lines:
        await parts.write(batch(0, 3))
        await lines.write(batch(3, 5))
    [notes] = tmp_path.glob(".odw-*")
    (notes / "part-half.jsonl.tmp").write_text('{"id": 9')

    found = walk(f"{tmp_path}/**")

    assert {Path(path).name for path, _ in found.files} == set(files(tmp_path))
    assert found.skipped == {"note of an unfinished run": 3}


def test_notes_in_a_bucket_are_no_objects() -> None:
    below = ObjectsBelow(None, "b", "x/", "text/csv")  # type: ignore[arg-type]
    folder = below._notes(run_token(Context("p", "n", "run-1")))
    listed = [ListedObject(name, "e", 1) for name in (f"{folder}part-1.jsonl.json", "x/_odw/own.json")]

    assert Selection().select(listed) == listed[1:]


BY_PRODUCTS = ["~$a.xlsx", "_SUCCESS", "_started_12", "._a.csv", ".DS_Store", ".a.csv.crc", "Thumbs.db"]
DATA = ["a~$.xlsx", "_SUCCESS.csv", "_started", "_a.csv", ".a.csv", "a.csv.crc", "Thumbs.dbf", "~a.csv"]


def test_by_products_of_programs_are_skipped(tmp_path: Path) -> None:
    for name in BY_PRODUCTS + DATA:
        (tmp_path / name).write_bytes(b"x")
    found = walk(f"{tmp_path}/*")
    assert sorted(Path(path).name for path, _ in found.files) == sorted(DATA)
    assert found.skipped == {"by-product of another program": len(BY_PRODUCTS)}
    listed = [ListedObject(f"x/{name}", "e", 1) for name in BY_PRODUCTS + DATA]
    assert [one.key for one in Selection().select(listed)] == [f"x/{name}" for name in DATA]


async def test_replacing_removes_earlier_runs_when_the_run_is_complete(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text('{"id": -1}')
    async with sink(tmp_path) as made:
        await made.write(batch(0, 5))
        await made.run_completed()
    async with sink(tmp_path, "run-2", mode="replace") as made:
        await made.write(batch(5, 9))
        assert ids(tmp_path) == [-1, *range(9)], "nothing is lost as long as the run may fail"
        await made.run_completed()
    assert ids(tmp_path) == [-1, *range(5, 9)]


async def test_files_that_are_there_are_an_error_when_asked_for(tmp_path: Path) -> None:
    async with sink(tmp_path, mode="error") as made:
        await made.write(batch(0, 5))
    async with sink(tmp_path, attempt=2, mode="error"):
        pass  # they are the run's own
    for attempt in (1, 2):  # resuming what was refused does not help
        with pytest.raises(FatalError, match=r"has 1 files .* `mode: error` rejects"):
            async with sink(tmp_path, "run-2", mode="error", attempt=attempt):
                pass


async def test_half_a_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    async with sink(tmp_path) as made:
        await made.write(batch(0, 5))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(FatalError, match="No space left"):
            await made.write(batch(5, 10))
    assert ids(tmp_path) == list(range(5))


async def test_runs_of_no_pipeline_never_replace_each_other(tmp_path: Path) -> None:
    for _ in range(2):
        made = FilesSink(FilesSinkParams(path=str(tmp_path)))
        async with made:
            await made.write(batch(0, 3))
            await made.run_completed()
    assert ids(tmp_path) == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
async def test_a_run_is_verified_by_what_its_files_hold(tmp_path: Path) -> None:
    records = [{"id": number} for number in range(30)]
    async with Engine() as engine:
        made = FilesSink(FilesSinkParams(path=str(tmp_path), rotate_records=7))
        report = await engine.run(linear_plan(MemorySource([records]), made), verify=True)
    assert report.verified
    assert ids(tmp_path) == list(range(30))
    assert len(files(tmp_path)) >= 4


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
async def test_files_are_packed_and_named_so(tmp_path: Path, packing: str) -> None:
    async with sink(tmp_path, compression=packing) as made:
        await made.write(batch(0, 5))
    (file,) = tmp_path.glob("part-*")
    assert file.name.endswith({"gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}[packing])
    if packing == "gzip":
        assert len(gzip.decompress(file.read_bytes()).splitlines()) == 5


class Visit(BaseModel):
    at: dt.date
    note: str | None = None


def test_csv_says_what_it_can_of_any_value() -> None:
    records = [
        {"a": 1, "b": 'x,"y"\n', "c": None, "d": True, "e": [1, {"k": "v"}]},
        Visit(at=dt.date(2026, 1, 2)),
        {"a": Decimal("1.10"), "b": 2**70},
        {"a": "\ud800"},
        {"a": object()},
    ]
    data, failures = encode_csv(records, [], ",", header=True)
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert set(failures) == {3, 4}
    assert {failure.kind for failure in failures.values()} == {"NotCsv"}
    assert rows[0] == {
        "a": "1",
        "b": 'x,"y"\n',
        "c": "",
        "d": "true",
        "e": '[1,{"k":"v"}]',
        "at": "",
        "note": "",
    }
    assert (rows[1]["at"], rows[2]["a"], rows[2]["b"]) == ("2026-01-02", "1.10", str(2**70))


def test_csv_columns_are_chosen_and_ordered() -> None:
    data, _ = encode_csv([{"a": 1, "b": 2, "c": 3}], ["c", "a", "z"], ";", header=True)
    assert data == b"c;a;z\n3;1;\n"


def parquet(records: list[Any], **params: Any) -> tuple[Any, dict[int, str]]:
    data, failures = encode_parquet(
        records, params.get("columns", []), params.get("types", {}), params.get("compression", "zstd")
    )
    table = pq.read_table(io.BytesIO(data)) if data else None
    return table, {index: error.kind for index, error in failures.items()}


def test_parquet_columns_have_the_type_of_their_values() -> None:
    table, failures = parquet([{"a": 1, "b": "x"}, {"a": 2.5, "c": [1, 2]}, {"b": None}])
    assert failures == {}
    assert table.to_pylist() == [
        {"a": 1.0, "b": "x", "c": None},
        {"a": 2.5, "b": None, "c": [1, 2]},
        {"a": None, "b": None, "c": None},
    ]  # fmt: skip


def test_a_value_that_does_not_fit_into_its_column_fails_alone() -> None:
    table, failures = parquet([{"a": 1}, {"a": "x"}, {"a": 3}, {"a": 2**80}, {"a": object()}])
    assert failures == {1: "NotParquet", 3: "NotParquet", 4: "NotParquet"}
    assert table.to_pylist() == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        (["x", b"x"], {1}),
        ([b"x", "x"], {1}),
        ([dt.date(2026, 1, 1), DAY], {1}),
        ([DAY, DAY.replace(tzinfo=dt.UTC)], {1}),
        ([None, 5.5, True, 3], {2}),
        ([dt.time(1, tzinfo=dt.UTC), dt.time(1)], {0}),
        ([{"a": [1.5]}, {"a": [True]}, {"b": [True]}], {1}),
        ([1, "x", 2.5], {1}),
        ([Decimal("1.1"), Decimal("NaN"), Decimal("1234.5")], {1}),
        (["\ud800", "x"], {0}),
        ([2**80, "x", "y"], {0}),
    ],
)
def test_a_value_of_another_kind_is_never_converted(values: list[Any], bad: set[int]) -> None:
    table, failures = parquet([{"a": value} for value in values])
    assert set(failures) == bad
    assert len(table) == len(values) - len(bad)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", DAY), ("date", 5), ("timestamp", 1.5), ("timestamp", 5),
        ("timestamp", DAY), ("timestamp", "2026-01-01T00:00:00"), ("number", True),
        ("integer", Decimal("1.5")), ("integer", Decimal("NaN")), ("integer", float("inf")),
    ],
)  # fmt: skip
def test_a_declared_type_cuts_nothing_off_and_makes_nothing_up(kind: str, value: Any) -> None:
    assert parquet([{"a": value}], types={"a": kind}) == (None, {0: "NotParquet"})


@pytest.mark.parametrize(
    ("value", "written"), [({}, None), ([{}], [None]), ({"x": {}}, {"x": None})], ids=["own", "list", "field"]
)
def test_an_empty_object_is_null_and_ends_no_run(value: Any, written: Any) -> None:
    table, failures = parquet([{"a": value, "b": 1}, {"b": 2}])
    assert failures == {}
    assert table["a"].to_pylist() == [written, None]
    assert table["b"].to_pylist() == [1, 2]


def test_csv_holds_long_integers_in_lists_and_no_null_as_text() -> None:
    data, failures = encode_csv(
        [{"a": [2**70], "b": float("nan")}, {"a": float("inf")}], [], ",", header=False
    )
    assert (data, failures) == (b"[1180591620717411303424],\n,\n", {})


@pytest.mark.parametrize(
    ("types", "remedy"),
    [({"at": "timestamp"}, "time with a zone, e.g. 2026-01-31T12:00:00Z"), ({"at": "integer"}, "`types`")],
)
def test_what_does_not_fit_into_parquet_names_a_remedy(types: Any, remedy: str) -> None:
    naive = dt.datetime(2026, 1, 2)  # noqa: DTZ001 - a time without a zone is what is refused
    _, failures = encode_parquet([{"at": naive}], [], types, "none")
    assert remedy in str(failures[0])
    assert "2026, 1" not in str(failures[0])


def test_declared_types_are_made_from_text() -> None:
    types = {"day": "date", "at": "timestamp", "money": "decimal", "n": "integer"}
    table, failures = parquet(
        [{"day": "2026-01-02", "at": "2026-01-02T03:04:05Z", "money": "1.10", "n": "7"}, {"day": "nonsense"}],
        types=types,
    )
    assert failures == {1: "NotParquet"}
    (row,) = table.to_pylist()
    assert (row["day"], row["money"], row["n"]) == (dt.date(2026, 1, 2), Decimal("1.10"), 7)
    assert row["at"] == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def test_numbers_are_decimals_by_their_shortest_digits() -> None:
    rows = [{"money": 1.1}, {"money": -80.0}, {"money": 3}, {"money": None}, {"money": 0.1 + 0.2}]
    table, failures = parquet(rows, types={"money": "decimal"})
    assert table["money"].to_pylist() == [Decimal("1.1"), Decimal(-80), Decimal(3), None]
    assert failures == {4: "NotParquet"}


def test_a_moment_outside_the_calendar_does_not_fit_and_ends_no_run() -> None:
    moments = ["2026-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"]
    table, failures = parquet([{"at": moment} for moment in moments], types={"at": "timestamp"})
    assert (table.num_rows, failures) == (1, {1: "NotParquet", 2: "NotParquet"})


def test_what_is_nested_so_deeply_that_no_reader_opens_it_does_not_fit() -> None:
    deep: dict[str, Any] = {"list": 1, "object": 1}
    for _ in range(MAX_DEPTH):
        deep = {"list": [deep["list"]], "object": {"a": deep["object"]}}
    table, failures = parquet([deep])
    assert (table.num_rows, failures) == (1, {})
    for more in ({"list": [deep["list"]]}, {"object": {"a": deep["object"]}}):
        table, failures = parquet([more, {"n": 1}])
        assert (table["n"].to_pylist(), failures) == ([1], {0: "NotParquet"})


def test_parquet_of_nothing_but_bad_records_is_nothing() -> None:
    assert parquet([{"a": object()}]) == (None, {0: "NotParquet"})


@pytest.mark.parametrize(
    "params",
    [{"types": {"a": "text"}}, {"format": "jsonl", "columns": ["a"]},
     {"format": "csv", "columns": ["a", "a"]}, {"format": "csv", "delimiter": '"'},
     {"format": "csv", "delimiter": "\n"}, {"format": "parquet", "header": False}, {"path": "s3://b/x"},
     {"path": "a\0b"}, {"partition_by": ["a", "a"]}, {"partition_by": [""]}, {"partition_by": [".k"]},
     {"max_partitions": 5}, {"format": "csv", "columns": ["a"], "partition_by": ["a"]},
     {"format": "parquet", "types": {"a": "text"}, "partition_by": ["a"]}],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FilesSinkParams(**{"path": "out", **params})


@pytest.mark.parametrize("path", ["bucket/x", "s3://", "gs://b/x"])
def test_an_address_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        S3SinkParams(path=path)


@pytest.mark.parametrize(
    ("params", "path"),
    [(FilesSinkParams, "out/{day}"), (JsonlSinkParams, "{country}.jsonl"), (S3SinkParams, "s3://b/{day}/x")],
)
def test_a_path_with_fields_is_refused(params: Any, path: str) -> None:
    with pytest.raises(ValidationError, match=r"is not filled in, because all records go to one place"):
        params(path=path)


def test_the_prefix_of_an_address_is_a_folder() -> None:
    assert S3SinkParams(path="s3://b/x/y").bucket_and_prefix == ("b", "x/y/")
    assert S3SinkParams(path="s3://b/x/y/").bucket_and_prefix == ("b", "x/y/")
    assert S3SinkParams(path="s3://b").bucket_and_prefix == ("b", "")


async def test_a_bad_record_leaves_the_others_of_its_file(tmp_path: Path) -> None:
    async with sink(tmp_path) as made:
        bad = Batch([{"id": 0}, {"id": object}, {"id": 2}], KeyRange("k/", 0, 3))
        with pytest.raises(BatchError) as caught:
            await made.write(bad)
    assert {index: error.kind for index, error in caught.value.failures.items()} == {1: "NotJson"}  # type: ignore[union-attr]
    assert ids(tmp_path) == [0, 2]


def test_a_fraction_is_not_cut_off_for_a_column_of_integers() -> None:
    table, failures = parquet([{"n": 1.5}, {"n": 2.0}, {"n": float("nan")}, {"n": 3}], types={"n": "integer"})

    assert failures == {0: "NotParquet", 2: "NotParquet"}
    assert table.to_pylist() == [{"n": 2}, {"n": 3}]


async def test_a_run_whose_files_were_replaced_does_not_resume(tmp_path: Path) -> None:
    async with sink(tmp_path, "run-1", mode="replace") as interrupted:
        await interrupted.write(batch(0, 10))
    async with sink(tmp_path, "run-2", mode="replace") as later:
        await later.write(batch(0, 30))
        await later.run_completed()

    with pytest.raises(FatalError, match="another run has replaced the files of this one"):
        async with sink(tmp_path, "run-1", mode="replace", attempt=2):
            pass
    assert ids(tmp_path) == list(range(30))


@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_run_whose_files_are_replaced_meanwhile_fails(tmp_path: Path, mode: str) -> None:
    async with sink(tmp_path, "run-1", mode=mode) as first, sink(tmp_path, "run-2", mode="replace") as second:
        await first.write(batch(0, 5))
        await second.write(batch(5, 9))
        await second.run_completed()
        await first.write(batch(9, 12))
        with pytest.raises(FatalError, match="another run has replaced the files of this one while it wrote"):
            await first.run_completed()


async def test_replacing_spares_files_of_other_programs(tmp_path: Path) -> None:
    others = {"part-00000-1f2e-c000.snappy.parquet", "part-1.csv", "part-", "part-..-1"}
    for name in others:
        (tmp_path / name).touch()
    async with sink(tmp_path, mode="replace") as made:
        await made.run_completed()
    assert {file.name for file in tmp_path.iterdir()} == others


async def test_a_complete_run_replaces_no_later_one(tmp_path: Path) -> None:
    """Killed after the sink was told that the run is complete, and before the run was."""
    for run, attempt, batches in (("run-1", 1, [batch(0, 3)]), ("run-2", 1, [batch(0, 9)]), ("run-1", 2, [])):
        async with sink(tmp_path, run, mode="replace", attempt=attempt) as made:
            for one in batches:
                await made.write(one)
            await made.run_completed()

    assert ids(tmp_path) == list(range(9))


class _FailingUploads:
    """A client whose uploads in parts fail, and cannot be abandoned either."""

    async def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        return {"UploadId": "1"}

    async def upload_part(self, **_: Any) -> None:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "later"}}, "UploadPart")

    async def abort_multipart_upload(self, **_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AbortMultipartUpload")


async def test_an_upload_fails_with_its_own_error() -> None:
    below = ObjectsBelow(_FailingUploads(), "b", "x/", "text/csv")  # type: ignore[arg-type]
    with pytest.raises(TransientError, match="SlowDown"):
        await below.put("run", "part", bytes(PART_BYTES + 1))


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """The rows of a partitioned folder, as DuckDB reads them."""
    import duckdb

    options = "hive_partitioning = true, hive_types_autocast = false"
    return duckdb.sql(f"select id, k from read_json('{folder}/**/*.jsonl', {options}) order by id").fetchall()


def by_kind(start: int, stop: int, kinds: int = 3) -> Batch:
    records: list[Any] = [{"id": number, "k": f"k{number % kinds}"} for number in range(start, stop)]
    return Batch(records, KeyRange("k/", start, stop))


VALUES: list[Any] = [
    "a/b", "ü =%.~-_", "", None, True, 1, 1.5, dt.date(2026, 1, 2), Decimal("1.20"), DAY
]  # fmt: skip


@pytest.mark.slow
async def test_partitions_are_named_as_other_tools_name_them(tmp_path: Path) -> None:
    batch = Batch([{"id": at, "k": value} for at, value in enumerate(VALUES)], KeyRange("k/", 0, len(VALUES)))
    async with sink(tmp_path, partition_by=["k"]) as made:
        await made.write(batch)
    texts = ["a/b", "ü =%.~-_", "", None, "true", "1", "1.5", "2026-01-02", "1.20", "2026-01-01 05:00:00"]
    assert rows(tmp_path) == list(enumerate(texts))
    assert (tmp_path / "k=%C3%BC%20%3D%25.~-_").is_dir()
    assert (tmp_path / "k=__HIVE_DEFAULT_PARTITION__").is_dir()


@pytest.mark.slow
async def test_a_record_without_a_partition_fails_alone(tmp_path: Path) -> None:
    values: list[Any] = [["x"], {"x": 1}, "x" * 300, "\ud800", "fine"]
    records: list[Any] = [*({"id": at, "k": value} for at, value in enumerate(values)), "text", {"id": 6}]
    async with sink(tmp_path, partition_by=["k"]) as made:
        with pytest.raises(BatchError) as caught:
            await made.write(Batch(records, KeyRange("k/", 0, 7)))
        assert made.ctx.aggregate == {"absent: k": 1}
    assert {at: error.kind for at, error in caught.value.failures.items()} == dict.fromkeys(
        [0, 1, 2, 3, 5], "NoPartition"
    )
    assert rows(tmp_path) == [(4, "fine"), (6, None)]


async def test_more_partitions_than_allowed_stop_the_run(tmp_path: Path) -> None:
    async with sink(tmp_path, partition_by=["id"], max_partitions=5) as made:
        with pytest.raises(FatalError, match=r"more than 5 partitions by id.*raise `max_partitions`"):
            await made.write(batch(0, 6))
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.slow
@given(
    cuts=st.lists(st.integers(1, 49), max_size=6), other=st.lists(st.integers(1, 49), max_size=6),
    stop=st.integers(0, 7), lost=st.integers(0, 9),
)  # fmt: skip
@settings(suppress_health_check=WITH_FIXTURES, max_examples=15)
async def test_a_resumed_run_doubles_nothing_in_partitions(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], other: list[int], stop: int, lost: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")

    def pieces(at: list[int]) -> list[tuple[int, int]]:
        return list(pairwise([0, *sorted(set(at)), 50]))

    async with sink(folder, partition_by=["k"]) as made:
        for start, end in pieces(cuts)[:stop]:
            await made.write(by_kind(start, end))
    for file in sorted(folder.rglob("part-*.jsonl"))[:lost]:  # killed between a note and its file
        if not file.parent.name.startswith("."):
            file.unlink()
    async with sink(folder, attempt=2, partition_by=["k"]) as made:
        for start, end in pieces(other):
            await made.write(by_kind(start, end))
            await made.write(by_kind(start, (start + end) // 2))  # as a batch is halved
            await made.write(by_kind((start + end) // 2, end))
        assert await made._open().count() == 50
        await made.run_completed()
    assert rows(folder) == [(number, f"k{number % 3}") for number in range(50)]
    assert not list(folder.glob(".odw*"))


@pytest.mark.slow
async def test_replacing_removes_partitions_of_any_layout(tmp_path: Path) -> None:
    layouts: list[list[str]] = [["k"], [], ["k", "id"], ["id"], []]
    other = tmp_path / "other" / "part-0123456789ab-000000000000-01234567.jsonl"
    other.parent.mkdir()
    other.write_text("{}")
    for number, layout in enumerate(layouts):
        async with sink(tmp_path, f"run-{number}", mode="replace", partition_by=layout) as made:
            await made.write(by_kind(0, 4))
            await made.run_completed()
        assert len(list(tmp_path.rglob("part-*.jsonl"))) == {(): 1, ("k",): 3}.get(tuple(layout), 4) + 1
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_dir()) == ["other"]
    async with sink(tmp_path, "later", partition_by=["k"]) as made:
        await made.write(by_kind(0, 4))
    with pytest.raises(FatalError, match=r"4 files"):
        async with sink(tmp_path, "last", mode="error"):
            pass


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
async def test_written_partitions_are_read_back(tmp_path: Path, form: str) -> None:
    records: list[Any] = [{"id": 1, "k": "a/b", "n": 1}, {"id": 2, "k": None, "n": 7}]
    async with sink(tmp_path, partition_by=["k", "n"], format=form) as made:
        await made.write(Batch(records, KeyRange("k/", 0, 2)))
    pattern = f"{tmp_path}/**/*.{form}"
    params: Any = {"format": form, "hive_partitioning": True, "hive_types": {"n": "integer"}}
    source = FilesSource(FilesParams(pattern=pattern, **params))
    assert sorted([record async for record in source.extract()], key=lambda one: one["id"]) == records


async def test_a_column_that_no_folder_names_is_noted(tmp_path: Path) -> None:
    (tmp_path / "k=1").mkdir()
    (tmp_path / "k=1" / "a.jsonl").write_text('{"n": 1}\n')
    params: Any = {"format": "jsonl", "hive_partitioning": True, "hive_types": {"day": "date"}}
    opened = FilesSource(FilesParams(pattern=f"{tmp_path}/**", **params))
    assert [record async for record in opened.extract()] == [{"n": 1, "k": "1"}]
    assert "note: some folders have no 'day', which `hive_types` names" in opened.ctx.aggregate


async def test_a_folder_whose_value_has_another_type_is_told(tmp_path: Path) -> None:
    async with sink(tmp_path, partition_by=["k"]) as made:
        await made.write(by_kind(0, 1))
    params: Any = {"format": "jsonl", "hive_partitioning": True, "hive_types": {"k": "date"}}
    source = FilesSource(FilesParams(pattern=f"{tmp_path}/**/*.jsonl", **params))
    with pytest.raises(RecordError, match=r"not of the type 'date' of `hive_types`"):
        assert [record async for record in source.extract()]


async def test_partitions_in_a_bucket_are_its_files() -> None:
    names = [
        "",
        "part-1.csv",
        "k=1/part-2.csv",
        "k=1/n=2/part-3.csv",
        "k=1/x/part-4.csv",
        "x/part-5.csv",
        "k=1/",
    ]
    below = ObjectsBelow(None, "bucket", "p/", "text/csv")  # type: ignore[arg-type]

    async def listed(prefix: str) -> Any:
        for name in [*names, "_odw/0123456789ab/part-2.csv.json"]:
            yield name, 1

    below._names = listed  # type: ignore[method-assign]
    assert list(await below.sizes()) == names[1:4]


@pytest.mark.slow
async def test_partitions_of_a_batch_are_written_concurrently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, active, most = anyio.Event(), 0, 0
    put = _FolderOfParts.put

    async def counted(self: _FolderOfParts, token: str, name: str, data: bytes) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        if active == 3:
            together.set()
        with anyio.fail_after(30):
            await together.wait()
        await put(self, token, name, data)
        active -= 1

    monkeypatch.setattr(_FolderOfParts, "put", counted)
    monkeypatch.setattr(FilesSink, "partitions_at_once", 3)
    made = sink(tmp_path, partition_by=["id"])
    async with made:
        await made.write(batch(0, 10))

    assert most == 3
    assert len(list(tmp_path.glob("id=*/part-*"))) == 10


async def test_an_error_of_one_partition_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []

    async def failing(self: _FolderOfParts, token: str, name: str, data: bytes) -> None:
        named.append(name)
        await anyio.sleep(0.001)
        raise TransientError("away")

    monkeypatch.setattr(_FolderOfParts, "put", failing)
    monkeypatch.setattr(FilesSink, "partitions_at_once", 3)
    made = sink(tmp_path, partition_by=["id"])
    async with made:
        with pytest.raises(TransientError, match="away"):
            await made.write(batch(0, 10))

    assert len(named) == 3


@pytest.mark.slow
@pytest.mark.parametrize("form", ["k/{}", "long/" * 20 + "{}/x"], ids=["numbered", "hashed"])
async def test_notes_of_partitions_take_few_bytes_for_each_record(tmp_path: Path, form: str) -> None:
    keys = [form.format(number) for number in range(9000)]
    given = Batch([{"id": number, "p": number % 7 % 3} for number in range(9000)], KeyList(keys))
    given.origins = []
    async with sink(tmp_path, partition_by=["p"]) as first:
        await first.write(given)
    notes = list(tmp_path.glob(".odw-*/*.json"))

    assert len(notes) == 3
    assert sum(note.stat().st_size for note in notes) < 13 * 9000
    async with sink(tmp_path, partition_by=["p"], attempt=2) as again:
        assert all(key in again._open().before for key in keys)
        assert form.format(9000) not in again._open().before
        await again.write(given)
    assert sum(len(file.read_bytes().splitlines()) for file in tmp_path.glob("p=*/*")) == 9000


async def test_csv_files_begin_with_a_mark_for_excel(tmp_path: Path) -> None:
    async with sink(tmp_path, format="csv", bom=True) as opened:
        await opened.write(Batch([{"Straße": "Ö"}], KeyRange("k/", 0, 1)))
    (written,) = tmp_path.glob("*.csv")
    assert written.read_bytes() == "\ufeffStraße\nÖ\n".encode()
    with pytest.raises(ValidationError):
        FilesSinkParams(path="out", bom=True)
