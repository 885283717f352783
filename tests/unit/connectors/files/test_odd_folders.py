"""Unusual folders: links, pipes, odd names, missing permissions, and files that vanish."""

# ruff: noqa: ASYNC230, ASYNC240 - tests may wait for their own small files

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from connectors.duckdb.database import DuckdbParams
from connectors.files import JsonlSource, JsonlSourceParams
from connectors.files.jsonl_sink import JsonlSinkParams
from connectors.files.sink import FilesSinkParams
from connectors.files.source import FilesParams
from connectors.objects.compression import zstd
from connectors.transforms.enriching import EnrichParams
from engine.cli.display.summary import summary
from engine.contract.component import Context, Params
from engine.contract.split import Split
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import DeadLetterFilter
from engine.testing import MemorySink, linear_plan


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def write(path: str, *numbers: int) -> Path:
    made = Path(path)
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(b"".join(orjson.dumps({"n": number}) + b"\n" for number in numbers))
    return made


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make these files and folders unreadable, also to root."""
    scandir, opened = os.scandir, os.open

    def checked(path: Any) -> None:
        if str(path) in names:
            raise PermissionError(13, "Permission denied", str(path))

    def guarded_scandir(path: Any = ".") -> Any:
        checked(path)
        return scandir(path)

    def guarded_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
        checked(path)
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "scandir", guarded_scandir)
    monkeypatch.setattr(os, "open", guarded_open)


class Ran:
    def __init__(self, report: RunReport, sink: MemorySink, dead: dict[str, str]) -> None:
        self.report, self.dead, self.keys = report, dead, sink.keys
        self.numbers = [record["n"] for record in sink.records]
        self.summary = summary([report], options=None, resumable=False) if report.ok and not dead else ""  # type: ignore[arg-type]


async def run(path: str = "data/**/*.jsonl*", folder: str = "state", **params: Any) -> Ran:
    sink = MemorySink()
    source = JsonlSource(JsonlSourceParams(path=path, **params))
    async with Engine(state_dir=folder) as engine:
        report = await engine.run(linear_plan(source, sink))
        letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
    return Ran(report, sink, {letter.key: letter.error_type for letter in letters})


async def test_entries_that_are_not_files_are_skipped_and_counted() -> None:
    write("data/a.jsonl", 1)
    os.mkfifo("data/b.jsonl")
    os.symlink("/dev/null", "data/c.jsonl")
    os.symlink("user@host.123:456", "data/.#a.jsonl")
    os.symlink("loop.jsonl", "data/loop.jsonl")
    Path("data/folder.jsonl").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("data/s.jsonl")
        ran = await run()
    assert (ran.numbers, ran.dead) == ([1], {})
    assert "skipped 3: pipe, socket or device" in ran.summary
    assert "skipped 2: link to nothing" in ran.summary


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
async def test_a_pipe_or_device_that_is_named_is_refused_at_once(make: Any) -> None:
    make("data/x.jsonl")
    ran = await run("data/x.jsonl")
    assert not ran.report.ok
    assert 'path: "-"' in (ran.report.error or "")


async def test_a_file_that_became_a_pipe_is_never_waited_for() -> None:
    write("data/a.jsonl", 1)
    write("data/b.jsonl", 2)
    source = JsonlSource(JsonlSourceParams(path="data/*.jsonl"))
    splits = [split async for split in source.splits(source.ctx)]
    os.unlink("data/b.jsonl")
    os.mkfifo("data/b.jsonl")
    small = Split(splits[1].key, {**splits[1].manifest, "size": 0})
    (batch,) = [batch async for batch in source.read(small, None, Context())]
    assert [error.kind for _, error in batch.failures] == ["FileUnreadable"]  # type: ignore[union-attr]


@pytest.mark.slow
async def test_links_are_followed_once_and_never_back_up() -> None:
    write("data/real/a.jsonl", 1)
    write("elsewhere/b.jsonl", 2)
    write("out.jsonl", 9)
    for name, target in {
        "data/linked": "../elsewhere",
        "data/again": "../elsewhere",
        "data/0_first": "real",
        "data/loop": "..",
        "data/real/self": ".",
        "data/real/latest.jsonl": "a.jsonl",
        "data/other.jsonl": "../elsewhere/c.jsonl",
    }.items():
        os.symlink(target, name)
    write("elsewhere/c.jsonl", 3)
    ran = await run()
    assert sorted(ran.numbers) == [1, 2, 3]
    assert "data/real/a.jsonl:1" in ran.keys
    assert "data/again/b.jsonl:1" in ran.keys
    assert "link to a folder" in ran.summary
    assert "link to a file" in ran.summary


@pytest.mark.slow
async def test_names_that_are_not_utf8_are_read_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    write("data/a.jsonl", 1)
    folder = b"data/caf\xe9"
    os.mkdir(folder)
    for name in (b"b.jsonl", b"\xff\xfe.jsonl"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b'{"n": 2}\n')
    for mode in ("all", "changed"):
        ran = await run(mode=mode)
        assert (ran.numbers, ran.dead) == ([1, 2, 2], {})
        assert r"data/caf\xe9/b.jsonl:1" in ran.keys
    assert (await run(mode="changed")).numbers == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["data/closed", "data/open/b.jsonl"])
async def test_what_may_not_be_read_fails_alone(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("data/open/a.jsonl", 1)
    write("data/open/b.jsonl", 2)
    write("data/open/c.jsonl", 3)
    write("data/closed/d.jsonl", 4)
    forbid(monkeypatch, what)
    for mode in ("all", "changed"):
        ran = await run(mode=mode, folder=mode)
        assert ran.report.ok, ran.report.error
        assert sorted(ran.numbers) == [n for n in (1, 2, 3, 4) if n != (4 if what == "data/closed" else 2)]
        assert list(ran.dead) == [what]
        assert ran.dead[what] == ("FolderUnreadable" if what == "data/closed" else "FileUnreadable")


@pytest.mark.slow
async def test_names_in_a_folder_that_may_not_be_searched_die_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    write("data/a.jsonl", 1)
    write("data/closed/b.jsonl", 2)
    looked = os.lstat

    def guarded(path: Any, **options: Any) -> os.stat_result:
        if "closed/" in str(path):
            raise PermissionError(13, "Permission denied")
        return looked(path, **options)

    monkeypatch.setattr(os, "lstat", guarded)
    ran = await run("data/{a,closed/b,closed/c}.jsonl")
    assert (ran.report.ok, ran.numbers) == (True, [1])
    assert sorted(ran.dead) == ["data/closed/b.jsonl", "data/closed/c.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("reason", [errno.EACCES, errno.ENAMETOOLONG])
async def test_a_folder_that_is_listed_and_cannot_be_reached_is_named(
    reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is in a folder that may be listed and not searched, or below a very long path."""
    write("data/a.jsonl", 1)
    write("data/closed/b.jsonl", 2)
    looked = os.stat

    def guarded(path: Any, **options: Any) -> os.stat_result:
        if str(path) == "data/closed":
            raise OSError(reason, os.strerror(reason))
        return looked(path, **options)

    monkeypatch.setattr(os, "stat", guarded)
    ran = await run("data/**/*.jsonl")
    assert (ran.report.ok, ran.numbers, list(ran.dead)) == (True, [1], ["data/closed"])


@pytest.mark.parametrize(
    "path", ["file:///tmp/a.jsonl", "s3://bucket/a.jsonl", "https://example.com/a.jsonl"]
)
def test_an_address_is_refused_before_the_run(path: str) -> None:
    with pytest.raises(
        ValidationError, match="is an address; the source `jsonl` reads paths of this machine"
    ):
        JsonlSourceParams(path=path)


@pytest.mark.slow
async def test_a_run_stops_when_nothing_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(f"data/{name}.jsonl", 1)
    forbid(monkeypatch, "data/a.jsonl", "data/b.jsonl", "data/c.jsonl")
    ran = await run()
    assert not ran.report.ok
    assert "Permission denied" in (ran.report.error or "")
    assert ran.dead == {}


@pytest.mark.slow
async def test_a_closed_folder_alone_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    write("data/closed/a.jsonl", 1)
    forbid(monkeypatch, "data/closed")
    ran = await run()
    assert not ran.report.ok
    assert "cannot read data/closed" in (ran.report.error or "")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["removed", "shortened", "replaced"])
async def test_what_changes_between_listing_and_reading_fails_alone(change: str) -> None:
    class Late(JsonlSource):
        async def splits(self, ctx: Context) -> Any:
            async for split in super().splits(ctx):
                yield split
            if change == "removed":
                os.unlink("data/b.jsonl")
            else:
                write("data/b.jsonl", *([5] if change == "shortened" else [5, 6]))

    for name in "abc":
        write(f"data/{name}.jsonl", 1, 2)
    sink = MemorySink()
    mode = "changed" if change == "replaced" else "all"
    async with Engine(state_dir="state") as engine:
        late = Late(JsonlSourceParams(path="data/*.jsonl", mode=mode))  # type: ignore[arg-type]
        report = await engine.run(linear_plan(late, sink))
        (letter,) = await engine.store.dead_letters(DeadLetterFilter())
    assert report.ok, report.error
    assert [record["n"] for record in sink.records] == [1, 2, 1, 2]
    assert letter.key == "data/b.jsonl"
    assert letter.error_type == ("FileVanished" if change == "removed" else "FileChanged")


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd().compress,
}


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "pack"), PACKERS.items())
async def test_packed_files_are_unpacked_and_damaged_ones_die_alone(suffix: str, pack: Any) -> None:
    content = b"".join(b'{"n": %d, "x": "%d"}\n' % (n, hash(n * 7919)) for n in range(3000))
    half = len(content) // 2
    Path(f"data/a.jsonl.{suffix}").write_bytes(pack(content[:half]) + pack(content[half:]))
    Path(f"data/b.jsonl.{suffix}").write_bytes(pack(content)[:-20])
    Path(f"data/c.jsonl.{suffix}").write_bytes(b"\0not packed at all")
    Path(f"data/e.jsonl.{suffix}").write_bytes(b'{"n": -1}\n')
    Path(f"data/f.jsonl.{suffix}").write_bytes(pack('{"n": -2}\n'.encode("utf-16")))
    ran = await run()
    assert ran.report.ok, ran.report.error
    assert ran.numbers[:3000] == list(range(3000))
    assert ran.numbers[3000:-2] == list(range(len(ran.numbers) - 3002))
    assert ran.numbers[-2:] == [-1, -2]
    assert ran.dead == {f"data/{name}.jsonl.{suffix}": "FileDamaged" for name in "bc"}
    Path(f"data/d.jsonl.{suffix}").write_bytes(b"")
    again = await run(mode="changed", folder="other")
    assert (await run(mode="changed", folder="other")).numbers == []
    assert again.dead == ran.dead


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]
)
async def test_files_with_a_byte_order_mark_are_read_and_continued(encoding: str) -> None:
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    text = mark + '{"n": 1, "t": "ü😀"}\r\n{"n": 2}\n'
    path = Path("data/a.jsonl")
    path.write_bytes(text.encode(encoding))
    assert (await run()).numbers == [1, 2]
    assert (await run(mode="changed")).numbers == [1, 2]
    assert (await run(mode="changed")).numbers == []
    rest = '{"n": 3}\n{"n": 4'.encode(encoding.removesuffix("-sig").replace("utf-16-", "utf-16-"))
    rest = rest[4:] if encoding == "utf-32" else rest[2:] if encoding == "utf-16" else rest
    with path.open("ab") as file:
        file.write(rest)
    ran = await run(mode="changed")
    assert (ran.numbers, ran.keys, ran.dead) == ([3], ["data/a.jsonl:3"], {})


async def test_a_wide_file_that_is_none_fails_alone() -> None:
    write("data/a.jsonl", 1)
    Path("data/b.jsonl").write_bytes(b"\xff\xfe" + b"\x00\xd8" * 100)
    ran = await run()
    assert (ran.numbers, ran.dead) == ([1], {"data/b.jsonl": "FileDamaged"})


@pytest.mark.slow
async def test_the_home_directory_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    write("data/a.jsonl", 1)
    assert (await run("~/data/*.jsonl")).numbers == [1]
    assert (await run("~/data/a.jsonl")).numbers == [1]


async def test_a_folder_that_is_named_says_how_to_read_what_is_in_it() -> None:
    with pytest.raises(FatalError, match=r"'data' is a folder: `data/\*\*` matches the files in it"):
        source = JsonlSource(JsonlSourceParams(path="data"))
        _ = [split async for split in source.splits(source.ctx)]


@pytest.mark.parametrize("pattern", ["data/**.jsonl", "da**/a.jsonl", "data/{x**,*}.jsonl"])
async def test_stars_for_folders_stand_between_slashes(pattern: str) -> None:
    write("data/a.jsonl", 1)
    with pytest.raises(FatalError, match="write it between slashes"):
        source = JsonlSource(JsonlSourceParams(path=pattern))
        _ = [split async for split in source.splits(source.ctx)]


@pytest.mark.parametrize("named", ["data/a\\\\b.jsonl", "data/a\\b.jsonl", "data/{a\\\\b,c}.jsonl"])
async def test_a_backslash_in_a_name_may_be_escaped(named: str) -> None:
    write("data/a\\b.jsonl", 1)
    source = JsonlSource(JsonlSourceParams(path=named))
    assert len([split async for split in source.splits(source.ctx)]) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/*.jsonl", ["a", "b[1]"]),
        ("data/**", ["a", "b[1]", "deep/.c", "deep/er/d", "x.txt"]),
        ("data/**/*.jsonl", ["a", "b[1]", "deep/.c", "deep/er/d"]),
        ("data/**/er/*", ["deep/er/d"]),
        ("data/*/*.jsonl", ["deep/.c"]),
        ("data/{a,deep/er/d}.jsonl", ["a", "deep/er/d"]),
        ("data/b\\[1\\].jsonl", ["b[1]"]),
        ("data/[ab]*", ["a", "b[1]"]),
        ("./data/?.jsonl", ["a"]),
        ("data/nothing/**", []),
        ("data/deep", []),
        ("da*/**/d.jsonl", ["deep/er/d"]),
    ],
)
async def test_a_pattern_means_what_it_means_for_s3(pattern: str, expected: list[str]) -> None:
    for name in ("a.jsonl", "b[1].jsonl", "deep/.c.jsonl", "deep/er/d.jsonl", "x.txt"):
        write(f"data/{name}", 1)
    source = JsonlSource(JsonlSourceParams(path=pattern))
    if pattern == "data/deep":
        with pytest.raises(FatalError, match="is a folder"):
            _ = [split async for split in source.splits(source.ctx)]
        return
    found = [split.key async for split in source.splits(source.ctx)]
    assert [os.path.normpath(path) for path in found] == [
        f"data/{name}" if name.endswith(".txt") else f"data/{name}.jsonl" for name in expected
    ]


class TestRotation:
    """`mode: changed` over files that are renamed, copied, cut off and packed by others."""

    @staticmethod
    def append(path: str, *numbers: int) -> None:
        with open(path, "ab") as file:
            file.write(b"".join(orjson.dumps({"n": number}) + b"\n" for number in numbers))

    @staticmethod
    def pack(path: str, suffix: str = "gz") -> None:
        Path(f"{path}.{suffix}").write_bytes(PACKERS[suffix](Path(path).read_bytes()))
        os.unlink(path)

    async def new(self) -> list[int]:
        ran = await run(mode="changed")
        assert ran.report.ok, ran.report.error
        assert ran.dead == {}
        return sorted(ran.numbers)

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", PACKERS)
    @pytest.mark.parametrize("filler", ["", "x" * 2000], ids=["small", "large"])
    async def test_renamed_then_packed_then_renamed_again(self, suffix: str, filler: str) -> None:
        log = "data/a.jsonl"
        if filler:
            Path(log).write_bytes(orjson.dumps({"n": 0, "x": filler}) + b"\n")
            assert await self.new() == [0]
        self.append(log, 1, 2)
        assert await self.new() == [1, 2]
        self.append(log, 3)
        os.rename(log, f"{log}.1")
        self.append(log, 4)
        assert await self.new() == [3, 4]
        self.append(log, 5)
        self.pack(f"{log}.1", suffix)
        assert await self.new() == [5]
        os.rename(f"{log}.1.{suffix}", f"{log}.2.{suffix}")
        os.rename(log, f"{log}.1")
        self.append(log, 6)
        assert await self.new() == [6]
        assert await self.new() == []

    @pytest.mark.slow
    async def test_copied_and_cut_off(self) -> None:
        log = "data/a.jsonl"
        self.append(log, 1, 2)
        assert await self.new() == [1, 2]
        self.append(log, 3)
        Path(f"{log}.1").write_bytes(Path(log).read_bytes())
        os.truncate(log, 0)
        self.append(log, 4)
        assert await self.new() == [3, 4]

    @pytest.mark.slow
    async def test_a_copy_beside_its_original_is_another_file(self) -> None:
        self.append("data/a.jsonl", 1, 2)
        assert await self.new() == [1, 2]
        Path("data/b.jsonl").write_bytes(Path("data/a.jsonl").read_bytes())
        assert await self.new() == [1, 2]

    @pytest.mark.slow
    async def test_a_new_file_that_begins_like_a_removed_one_is_read_whole(self) -> None:
        self.append("data/a.jsonl", 1, 2)
        assert await self.new() == [1, 2]
        os.unlink("data/a.jsonl")
        self.append("data/b.jsonl", 1, 7, 8)
        assert await self.new() == [1, 7, 8]

    @pytest.mark.slow
    async def test_what_moves_into_a_known_name_has_keys_of_its_own(self) -> None:
        for number in (1, 2):
            self.append("data/a.jsonl", number, number + 10)
            assert await self.new() == [number, number + 10]
            self.append("data/a.jsonl", number + 20)
            os.rename("data/a.jsonl", "data/a.jsonl.1")
            ran = await run(mode="changed")
            assert ran.numbers == [number + 20]
            assert ran.keys == ["data/a.jsonl.1:3" if number == 1 else "data/a.jsonl.1#2:3"]


@pytest.mark.parametrize(
    ("params", "given"),
    [
        (JsonlSourceParams, {"path": "a\0b"}),
        (JsonlSinkParams, {"path": "a\0b"}),
        (FilesParams, {"pattern": ["a", "a\0b/*"]}),
        (FilesSinkParams, {"path": "a\0b"}),
        (EnrichParams, {"file": "a\0b.csv", "on": "id"}),
        (DuckdbParams, {"path": "a\0b"}),
    ],
)
def test_no_path_contains_a_nul_character(params: type[Params], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a path cannot contain a NUL character"):
        params.model_validate(given)
