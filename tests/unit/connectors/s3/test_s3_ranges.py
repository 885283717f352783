"""Large objects in several concurrent ranges, with all kinds of servers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from connectors.objects.listed import ListedObject
from connectors.s3 import ranges
from connectors.s3.ranges import ParallelRanges
from connectors.s3.streams import S3Body
from engine.errors import TransientError
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Ran, Reply, refusal, run, serving, source

LEAST, STEP = 1000, 300
TEXT = "".join(f"{number:07d}\n" for number in range(250))
KEY = "large.txt"


class Ranged(OddS3):
    """Knows ranges; fails as told, by the first byte of a range and how often it was asked for."""

    def __init__(self, faults: dict[tuple[int, int], Reply | int] | None = None) -> None:
        super().__init__({KEY: TEXT.encode(), "small.txt": b"small"})
        self.faults = faults or {}
        self.ranges: Counter[int] = Counter()

    def whole(self, key: str) -> Reply:
        found = super().whole(key)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.asked[-1].headers.get("range", ""))
        if not asked:
            return found
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(found.body))
        self.ranges[start] += 1
        found.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(found.body)}"
        found.status, found.body = 206, found.body[start:stop]
        fault = self.faults.get((start, self.ranges[start]))
        if isinstance(fault, int):
            found.cut_after = fault
        return found if fault is None or isinstance(fault, int) else fault


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PARALLEL_FROM", LEAST)
    monkeypatch.setattr(ranges, "RANGE_BYTES", STEP)


async def read(lake: OddS3, folder: Path, **params: Any) -> Ran:
    async with serving(lake):
        return await run(source(lake, **params), folder)


def content(ran: Ran) -> dict[str, str]:
    return {record["file_path"].rpartition("/")[2]: record["content"] for record in ran.records}


@pytest.mark.slow
async def test_a_large_object_arrives_in_ranges(tmp_path: Path) -> None:
    lake = Ranged()
    ran = await read(lake, tmp_path)

    assert content(ran) == {KEY: TEXT, "small.txt": "small"}
    assert lake.ranges == dict.fromkeys(range(0, len(TEXT), STEP), 1)
    assert lake.gets("small.txt") == 1
    assert all(one.headers["if-match"] == lake.etag(KEY) for one in lake.asked if one.key == KEY)
    [large] = [record for record in ran.records if record["file_path"].endswith(KEY)]
    assert large["file_size"] == len(TEXT)
    assert large["etag"] == lake.etag(KEY).strip('"')


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 600, 1800])
@pytest.mark.parametrize("cut", [0, 17, 150])
async def test_a_range_that_breaks_off_is_resumed(tmp_path: Path, start: int, cut: int) -> None:
    lake = Ranged({(start, 1): cut})
    ran = await read(lake, tmp_path)

    assert content(ran)[KEY] == TEXT
    again = {} if cut == 0 else {start + cut: 1}
    expected = {**dict.fromkeys(range(0, len(TEXT), STEP), 1), **again}
    expected[start] += cut == 0
    assert lake.ranges == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        refusal(503, "SlowDown"),
        refusal(500, "InternalError"),
        Reply(206, b"x" * 301, {"Content-Range": "bytes 600-900/2000"}),
        Reply(206, b"x" * 300, {"Content-Range": "bytes 600-899/2000"}),  # without an ETag
        Reply(206, b"x" * 300, {"Content-Range": "bytes 0-299/2000"}),
        Reply(206, b"x" * 300, {"Content-Range": "bytes 600-899/2001"}),
        Reply(200, b"y" * 2000),
    ],
)
async def test_no_wrong_byte_gets_in(tmp_path: Path, fault: Reply) -> None:
    lake = Ranged({(600, 1): fault})
    ran = await read(lake, tmp_path)

    assert content(ran)[KEY] == TEXT
    assert lake.ranges[600] == 2


@pytest.mark.slow
async def test_an_object_that_changes_between_ranges_is_a_dead_letter(tmp_path: Path) -> None:
    class Changing(Ranged):
        def get(self, asked: Asked) -> Reply:
            if len(self.ranges) == 3:
                self.objects[KEY] = b"z" * len(TEXT)
            return super().get(asked)

    ran = await read(Changing(), tmp_path)

    assert ran.dead == {KEY: "ObjectChanged"}
    assert content(ran) == {"small.txt": "small"}


@pytest.mark.slow
async def test_a_server_without_ranges_is_asked_for_the_whole(tmp_path: Path) -> None:
    lake = OddS3({name: TEXT.encode() for name in ("a.txt", "b.txt", "c.txt")})
    ran = await read(lake, tmp_path, concurrency=1)

    assert set(content(ran).values()) == {TEXT}
    assert [one.key for one in lake.asked if one.headers.get("range")] == ["a.txt"]
    assert [lake.gets(name) for name in ("a.txt", "b.txt", "c.txt")] == [2, 1, 1]


class KnowsNoRanges(OddS3):
    """Refuses a range as one refuses what was never made."""

    def get(self, asked: Asked) -> Reply:
        return refusal(501, "NotImplemented") if "range" in asked.headers else super().get(asked)


class SendsLess(Ranged):
    """Sends at most 60 bytes of a range, as a server may."""

    def get(self, asked: Asked) -> Reply:
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", "")):
            asked.headers["range"] = f"bytes={wanted[1]}-{min(int(wanted[1]) + 59, int(wanted[2]))}"
        return super().get(asked)


@pytest.mark.slow
@pytest.mark.parametrize("lake", [KnowsNoRanges({KEY: TEXT.encode()}), SendsLess()], ids=["none", "less"])
async def test_ranges_that_a_server_makes_less_of_are_read(tmp_path: Path, lake: OddS3) -> None:
    ran = await read(lake, tmp_path)
    assert content(ran)[KEY] == TEXT


@pytest.mark.slow
async def test_a_range_that_never_arrives_is_given_up(tmp_path: Path) -> None:
    lake = Ranged({(600, number): refusal(500, "InternalError") for number in range(1, 100)})
    ran = await read(lake, tmp_path)

    assert ran.dead == {KEY: "ObjectUnreadable"}
    assert lake.ranges[600] == 9  # three tries of the object, with three of the range each


@pytest.mark.parametrize(
    ("etag", "size", "applies"),
    [("e", LEAST, True), ("e", LEAST - 1, False), ("e", -1, False), ("", LEAST, False), ("e", 9999, False)],
)
def test_what_is_read_in_ranges(etag: str, size: int, applies: bool) -> None:
    parallel = ParallelRanges(None, None, max_bytes=5000)  # type: ignore[arg-type]
    assert parallel.apply_to(ListedObject("k", etag, size)) is applies


@pytest.mark.slow
async def test_a_key_that_sounds_like_an_error_turns_no_ranges_off(tmp_path: Path) -> None:
    lake = Ranged({(0, 1): refusal(500, "InternalError")})
    lake.objects = {"NotImplemented/1.txt": TEXT.encode(), "NotImplemented/2.txt": TEXT.encode()}
    ran = await read(lake, tmp_path, concurrency=1)

    assert len(ran.records) == 2
    assert all(one.headers["range"] and one.headers["if-match"] for one in lake.asked if one.key)


PART = {"ResponseMetadata": {"HTTPStatusCode": 206}, "ContentLength": 3}


@pytest.mark.parametrize("sent", [None, "", "bytes", "bytes 7", "none"])
def test_a_part_that_does_not_say_which_is_not_the_whole(sent: str | None) -> None:
    answer = PART if sent is None else {**PART, "ContentRange": sent}
    for start, stop in ((5, None), (0, 3), (0, None)):
        with pytest.raises(TransientError, match="a part arrived"):
            S3Body(None, answer, "lake", ListedObject("a", "one", -1), start, stop)


@pytest.mark.parametrize(
    "sent", ["bytes 5-7/8", "Bytes 5-7/8", "bytes=5-7/8", " bytes  5 - 7 / 8 ", "bytes 5-7/*"]
)
def test_a_part_is_known_however_its_range_is_written(sent: str) -> None:
    assert S3Body(None, {**PART, "ContentRange": sent}, "lake", ListedObject("a", "one", 8), 5, None).is_part


def test_a_range_that_is_no_number_is_no_range() -> None:
    answer = {"ContentRange": f"bytes 0-{'9' * 5000}/3", "ContentLength": 3}

    assert not S3Body(None, answer, "lake", ListedObject("a", "one", 3), 0, 3).is_part
