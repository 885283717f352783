"""The sources of whole objects: the same options and the same outcomes for a bucket and for a folder."""

# ruff: noqa: ASYNC240 - tests may wait for their own small files

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.files import source as files_source
from connectors.files.source import FilesParams, FilesSource
from connectors.objects.params import ObjectParams
from connectors.objects.source import ObjectSource
from connectors.s3 import S3Connector, S3Params
from engine.contract.component import Context
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.state import DeadLetterFilter
from engine.testing import MemorySink, linear_plan
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Ran, Reply, refusal, run, serving, source

FILES = {
    "a.txt": b"a",
    "b.pdf": b"%PDF-1.4",
    "memos/1.txt": b"memo 1",
    "memos/2.txt": b"memo number 2",
    "memos/deep/3.txt": "Grüße".encode(),
    "memos/deep/.4.txt": b"",
    "tmp/5.txt": b"x" * 2000,
}


class Place:
    """Where the files are; `forbidden` ones cannot be read."""

    forbidden: set[str]

    def source(self, pattern: Any = "**", **params: Any) -> ObjectSource[Any]:
        raise NotImplementedError

    def put(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def name(self, path: str) -> str:
        raise NotImplementedError


class Bucket(Place):
    class Lake(OddS3):
        forbidden: set[str]

        def get(self, asked: Asked) -> Reply:
            return refusal(403, "AccessDenied") if asked.key in self.forbidden else super().get(asked)

        def entry(self, key: str) -> str:
            year = 2020 if key.startswith("memos/deep") else 2026
            return super().entry(key).replace("2026-01-02", f"{year}-01-02")

    def __init__(self, lake: Bucket.Lake) -> None:
        self.lake = lake
        self.forbidden = lake.forbidden = set()

    def source(self, pattern: Any = "**", **params: Any) -> ObjectSource[Any]:
        if isinstance(pattern, list):
            params["pattern"] = [f"s3://data/{one}" for one in pattern]
            return S3Connector(S3Params(**params), source(self.lake).connection)
        return source(self.lake, pattern, **params)

    def put(self, name: str, content: bytes) -> None:
        self.lake.objects[name] = content

    def remove(self, name: str) -> None:
        del self.lake.objects[name]

    def name(self, path: str) -> str:
        return path.removeprefix("s3://data/")


class Folder(Place):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.forbidden = set()
        opened = os.open

        def guarded(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if str(path).removeprefix("data/") in self.forbidden:
                raise PermissionError(13, "Permission denied")
            return opened(path, flags, *args, **options)

        monkeypatch.setattr(os, "open", guarded)

    def source(self, pattern: Any = "**", **params: Any) -> ObjectSource[Any]:
        patterns = [f"data/{one}" for one in pattern] if isinstance(pattern, list) else f"data/{pattern}"
        if "exclude" in params:
            params["exclude"] = [f"data/{one}" for one in params["exclude"]]
        return FilesSource(FilesParams(pattern=patterns, **params))

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name.startswith("memos/deep"):
            os.utime(path, (1_577_836_800, 1_577_836_800))  # 2020

    def remove(self, name: str) -> None:
        (self.folder / "data" / name).unlink()

    def name(self, path: str) -> str:
        return path.removeprefix("data/")


@pytest.fixture(params=["bucket", "folder"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Place, None]:
    monkeypatch.chdir(tmp_path)
    lake = Bucket.Lake({})
    async with serving(lake):
        made: Place = Bucket(lake) if request.param == "bucket" else Folder(tmp_path, monkeypatch)
        for name, content in FILES.items():
            made.put(name, content)
        yield made


async def ran(place: Place, made: ObjectSource[Any]) -> Ran:
    return await run(made, Path("state"))  # type: ignore[arg-type]


async def arrived(place: Place, pattern: Any = "**", **params: Any) -> list[str]:
    found = await ran(place, place.source(pattern, **params))
    assert found.report.ok, found.report.error
    return [place.name(record["file_path"]) for record in found.records]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", sorted(FILES)),
        ("*.{txt,pdf}", ["a.txt", "b.pdf"]),
        ("memos/*.txt", ["memos/1.txt", "memos/2.txt"]),
        ("memos/**/*.txt", ["memos/1.txt", "memos/2.txt", "memos/deep/.4.txt", "memos/deep/3.txt"]),
        ("memos/[12].txt", ["memos/1.txt", "memos/2.txt"]),
        ("*/?.txt", ["memos/1.txt", "memos/2.txt", "tmp/5.txt"]),
        ("a.txt", ["a.txt"]),
        ("nothing/*", []),
        (["a.*", "memos/deep/**", "a.txt"], ["a.txt", "memos/deep/.4.txt", "memos/deep/3.txt"]),
    ],
)
async def test_a_pattern_matches_the_same_files(place: Place, pattern: Any, expected: list[str]) -> None:
    assert sorted(await arrived(place, pattern)) == expected


@pytest.mark.slow
async def test_records_are_the_same_but_for_their_addresses(place: Place) -> None:
    found = await ran(place, place.source("memos/**"))
    records = {place.name(record["file_path"]): record for record in found.records}
    record = records["memos/deep/3.txt"]
    assert set(record) == {
        "file_path", "content", "content_type", "file_size", "is_binary", "source_uri", "etag", "version_id",
        "last_modified", "encoding", "encoding_guessed", "replaced_characters",
    }  # fmt: skip
    assert (record["content"], record["file_size"], record["encoding"]) == ("Grüße", 7, "utf-8")
    assert record["source_uri"].endswith("memos/deep/3.txt")
    assert records["memos/deep/.4.txt"]["content"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            {"exclude": ["tmp/**", "**/.*", "*.pdf"]},
            ["a.txt", "memos/1.txt", "memos/2.txt", "memos/deep/3.txt"],
        ),
        ({"min_bytes": 10}, ["memos/2.txt", "tmp/5.txt"]),
        (
            {"min_bytes": 1, "max_bytes": "1KiB"},
            ["a.txt", "b.pdf", "memos/1.txt", "memos/2.txt", "memos/deep/3.txt"],
        ),
        ({"modified_before": "2021-01-01"}, ["memos/deep/.4.txt", "memos/deep/3.txt"]),
        ({"modified_after": "2021-01-01T00:00:00+02:00", "max_bytes": 1}, ["a.txt"]),
        ({"limit": 2}, ["a.txt", "b.pdf"]),
        ({"limit": 100, "exclude": ["{memos,tmp}/**"]}, ["a.txt", "b.pdf"]),
    ],
)
async def test_what_is_read_can_be_narrowed(
    place: Place, params: dict[str, Any], expected: list[str]
) -> None:
    found = await ran(place, place.source(**params))
    assert [place.name(record["file_path"]) for record in found.records] == expected
    skipped = found.counted("skipped: excluded by name, date or size")
    assert skipped == 0 if params == {"limit": 2} else skipped == len(FILES) - len(expected)


async def test_a_record_has_the_date_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    os.utime(file, (1_577_836_800, 1_577_836_800))

    [record] = [one async for one in FilesSource(FilesParams(pattern=str(file))).extract()]

    assert record.last_modified == "2020-01-01T00:00:00+00:00"


@pytest.mark.parametrize("seconds", [10**12, -(10**11), 2**62])
def test_a_date_outside_of_the_calendar_is_unknown(seconds: int) -> None:
    info = os.stat_result([0] * 10, {"st_mtime": float(seconds)})
    assert files_source._modified(info) == ""


@pytest.mark.slow
async def test_a_pattern_that_must_match_stops_the_run(place: Place) -> None:
    found = await ran(place, place.source("nothing/**", require_match=True))
    assert not found.report.ok
    assert "matches nothing, and `require_match` is set" in (found.report.error or "")
    assert await arrived(place, "a*", require_match=True) == ["a.txt"]


@pytest.mark.slow
async def test_limits_count_from_after_what_was_delivered(place: Place) -> None:
    params = {"mode": "changed", "limit": 3}
    assert len(await arrived(place, **params)) == 3
    assert len(await arrived(place, **params)) == 3
    place.put("a.txt", b"another a")
    assert sorted(await arrived(place, **params)) == ["a.txt", "tmp/5.txt"]
    assert await arrived(place, require_match=True, **params) == []


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["dead_letter", "skip", "stop"])
async def test_on_unreadable_decides_about_unreadable_ones(place: Place, choice: str) -> None:
    place.forbidden.add("memos/1.txt")
    found = await ran(place, place.source("memos/*", on_unreadable=choice))
    assert found.report.ok == (choice != "stop")
    assert len(found.dead) == (choice == "dead_letter")
    assert found.counted("skipped: unreadable") == (choice == "skip")
    if choice != "stop":
        assert [place.name(record["file_path"]) for record in found.records] == ["memos/2.txt"]
    else:
        assert "on_unreadable: stop" in (found.report.error or "")


@pytest.mark.slow
async def test_a_whole_group_can_be_skipped(place: Place) -> None:
    for number in range(40):
        place.put(f"many/{number:02}.txt", b"x")
        if number < 39:
            place.forbidden.add(f"many/{number:02}.txt")
    assert await arrived(place, "many/*", on_unreadable="skip") == ["many/39.txt"]


@pytest.mark.slow
async def test_a_run_stops_when_no_file_can_be_read(place: Place) -> None:
    place.forbidden |= set(FILES)
    found = await ran(place, place.source())
    assert not found.report.ok
    assert (found.records, found.dead) == ([], {})


@pytest.mark.slow
async def test_what_changes_or_goes_between_listing_and_reading_dies_alone(place: Place) -> None:
    made = place.source("memos/*")
    listing = made.splits

    async def late(ctx: Context) -> Any:
        async for split in listing(ctx):
            yield split
        place.put("memos/1.txt", b"MEMO 1 and more")

    made.splits = late  # type: ignore[method-assign]
    found = await ran(place, made)
    assert [place.name(record["file_path"]) for record in found.records] == ["memos/2.txt"]
    assert list(found.dead.values()) == ["ObjectChanged"]

    gone = place.source("memos/*")
    listing = gone.splits

    async def later(ctx: Context) -> Any:
        async for split in listing(ctx):
            yield split
        place.remove("memos/1.txt")

    gone.splits = later  # type: ignore[method-assign]
    found = await ran(place, gone)
    assert list(found.dead.values()) in (["ObjectVanished"], ["FileVanished"])


@pytest.mark.slow
async def test_it_can_be_used_without_a_pipeline(place: Place) -> None:
    files = [found async for found in place.source("memos/*").extract()]
    assert sorted(found.content for found in files) == ["memo 1", "memo number 2"]
    place.forbidden.add("memos/1.txt")
    with pytest.raises(FatalError):
        _ = [found async for found in place.source("memos/1.txt").extract()]


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (S3Params, {"pattern": []}, "list of patterns is empty"),
        (S3Params, {"pattern": ["s3://a/x", "s3://b/x"]}, "several buckets"),
        (S3Params, {"pattern": "s3://a/x", "exclude": "s3://b/x"}, "names the bucket 'b'"),
        (S3Params, {"pattern": "s3://a/x", "limit": 0}, "greater than or equal to 1"),
        (S3Params, {"pattern": "s3://a/x", "modified_after": "yesterday"}, "datetime"),
        (
            FilesParams,
            {"pattern": "x", "modified_after": "2026-05-01", "modified_before": "2026-05-01T02:00:00+02:00"},
            "no object would be read",
        ),
        (FilesParams, {"pattern": "x", "min_bytes": "1MiB", "max_bytes": 10}, "no object would be read"),
        (FilesParams, {"pattern": ""}, "the pattern is empty"),
        (FilesParams, {"pattern": "x", "exclude": "{1..2000}"}, "expand to more than 1000"),
        (FilesParams, {"pattern": "s3://bucket/x"}, "is an address"),
    ],
)
def test_meaningless_values_are_refused(model: type[ObjectParams], params: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(**params)


@pytest.mark.slow
async def test_names_that_are_not_utf8_are_read_with_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir(b"caf\xe9")
    Path(os.fsdecode(b"caf\xe9/\xff.txt")).write_bytes(b"found")
    sink = MemorySink()
    async with Engine(state_dir="state") as engine:
        report = await engine.run(linear_plan(FilesSource(FilesParams(pattern="caf*/**")), sink))
        assert await engine.store.dead_letters(DeadLetterFilter()) == []
    assert report.ok, report.error
    (record,) = sink.records
    assert (record["file_path"], record["content"]) == (r"caf\xe9/\xff.txt", "found")
    assert record["source_uri"].endswith("caf%E9/%FF.txt")


async def test_a_pipe_among_the_files_is_skipped_and_one_that_is_named_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.txt")
    Path("a.txt").write_bytes(b"a")
    assert [found.file_path async for found in FilesSource(FilesParams(pattern="*.txt")).extract()] == [
        "a.txt"
    ]
    with pytest.raises(FatalError, match="pipe, socket or device"):
        _ = [found async for found in FilesSource(FilesParams(pattern="pipe.txt")).extract()]
