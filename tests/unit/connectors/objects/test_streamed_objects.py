"""Objects that are read as streams of records, from servers that fail on the way."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.objects import streaming
from engine.contract.component import Context
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, refusal, run, serving, source

ROWS = [{"id": number, "text": "x" * 50} for number in range(3000)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


class Ranged(OddS3):
    """Knows ranges."""

    def whole(self, key: str) -> Reply:
        return super().whole(key)

    def get(self, asked: Asked) -> Reply:
        reply = super().get(asked)
        wanted = asked.headers.get("range")
        if reply.status != 200 or wanted is None:
            return reply
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        size = len(reply.body)
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if start >= size:
            return refusal(416, "InvalidRange")
        reply.status, reply.body = 206, reply.body[start:stop]
        reply.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return reply


class BreaksOff(Ranged):
    """Each answer ends early, behind so many bytes."""

    after = 60_000

    def get(self, asked: Asked) -> Reply:
        reply = super().get(asked)
        if len(reply.body) > self.after:
            reply.cut_after = self.after
        return reply


class KnowsNoRanges(OddS3):
    def get(self, asked: Asked) -> Reply:
        reply = super().get(asked)
        if self.gets() == 1:
            reply.cut_after = 100_000
        return reply


class SendsLess(Ranged):
    """Answers with the beginning of what is asked for, as a server may."""

    def get(self, asked: Asked) -> Reply:
        first = asked.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        shorter = {**asked.headers, "range": f"bytes={first}-{int(first) + 29_999}"}
        return super().get(replace(asked, headers=shorter))


class SendsLessInChunks(SendsLess):
    def get(self, asked: Asked) -> Reply:
        return replace(super().get(asked), chunked=True)


class BusyMeanwhile(BreaksOff):
    """More often than a failure may come in a row, but each time because there is too much to do."""

    def get(self, asked: Asked) -> Reply:
        return refusal(503, "SlowDown") if 1 < self.gets() < 6 else super().get(asked)


@pytest.mark.slow
@pytest.mark.parametrize("lake", [SendsLess, SendsLessInChunks, BusyMeanwhile])
async def test_what_a_part_leaves_out_is_asked_for(tmp_path: Path, lake: type[OddS3]) -> None:
    async with serving(lake({"a.jsonl": LINES})) as server:
        ran = await run(source(server, format="jsonl", page_records=100), tmp_path)
        assert ran.report.ok, ran.report.error
        assert ran.records == ROWS


@pytest.fixture(autouse=True)
def _all_objects_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "AHEAD_BYTES", 1000)


@pytest.mark.slow
async def test_a_body_that_breaks_off_is_resumed(tmp_path: Path) -> None:
    async with serving(BreaksOff({"a.jsonl": LINES})) as lake:
        ran = await run(source(lake, format="jsonl", page_records=100), tmp_path)
        assert ran.report.ok, ran.report.error
        assert ran.records == ROWS
        assert lake.gets() == len(LINES) // 60_000 + 1, "nothing is asked for twice"


@pytest.mark.slow
async def test_a_server_without_ranges_is_read_again_from_the_beginning(tmp_path: Path) -> None:
    async with serving(KnowsNoRanges({"a.jsonl": LINES})) as lake:
        ran = await run(source(lake, format="jsonl", page_records=100), tmp_path)
        assert ran.records == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "lines", "csv"])
async def test_an_object_that_never_works_fails_alone(tmp_path: Path, kind: str) -> None:
    class Broken(Ranged):
        def get(self, asked: Asked) -> Reply:
            if asked.key == "b.jsonl":
                return refusal(500, "InternalError")
            return super().get(asked)

    content = b"number,text\n" + b"1,some text\n" * 10_000 if kind == "csv" else LINES
    objects = dict.fromkeys(["a.jsonl", "b.jsonl", "c.jsonl"], content)
    async with serving(Broken(objects)) as lake:
        params: dict[str, Any] = {"header": False} if kind == "csv" else {}
        ran = await run(source(lake, format=kind, **params), tmp_path)
        assert ran.report.ok, ran.report.error
        assert ran.dead == {"b.jsonl": "ObjectUnreadable"}
        # twice its tries: while it had the first, nothing else was read, as in an outage
        sampled = kind == "csv"  # its beginning was asked for once, to compare the types of columns
        assert lake.gets("b.jsonl") <= 2 * 3 + sampled


@pytest.mark.slow
async def test_the_rest_of_an_object_that_breaks_dies_and_the_next_is_read(tmp_path: Path) -> None:
    damaged = gzip.compress(LINES)[:-100]
    async with serving(Ranged({"a.jsonl.gz": damaged, "b.jsonl": LINES})) as lake:
        ran = await run(source(lake, format="jsonl"), tmp_path)
        assert ran.dead == {"a.jsonl.gz": "ObjectDamaged"}
        assert ran.records[-3000:] == ROWS
        assert ran.records[:1000] == ROWS[:1000]


@pytest.mark.slow
async def test_an_object_that_changes_while_it_is_read_is_not_mixed(tmp_path: Path) -> None:
    class Changes(BreaksOff):
        def get(self, asked: Asked) -> Reply:
            if asked.headers.get("range", "").startswith("bytes=12"):
                self.objects["a.jsonl"] = LINES.replace(b"x", b"y")
            return super().get(asked)

    async with serving(Changes({"a.jsonl": LINES, "b.jsonl": b'{"id": 1}\n'})) as lake:
        ran = await run(source(lake, format="jsonl", page_records=100), tmp_path)
        assert ran.dead == {"a.jsonl": "ObjectChanged"}
        assert not any("y" in record.get("text", "") for record in ran.records)


@pytest.mark.slow
async def test_a_server_that_refuses_if_match_is_read_without(tmp_path: Path) -> None:
    class NeverMatches(Ranged):
        def get(self, asked: Asked) -> Reply:
            return refusal(412, "PreconditionFailed") if "if-match" in asked.headers else super().get(asked)

    async with serving(NeverMatches({"a.jsonl": LINES, "b.jsonl": LINES})) as lake:
        ran = await run(source(lake, format="jsonl"), tmp_path)
        assert ran.records == ROWS + ROWS


@pytest.mark.slow
async def test_small_objects_are_read_with_one_request_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "AHEAD_BYTES", 1 << 20)
    objects = {f"{number:03}.jsonl": b'{"n": %d}\n' % number for number in range(50)}
    async with serving(OddS3(objects)) as lake:
        ran = await run(source(lake, format="jsonl"), tmp_path)
        assert [record["n"] for record in ran.records] == list(range(50))
        assert lake.gets() == 50


@pytest.mark.slow
async def test_content_encoding_is_undone(tmp_path: Path) -> None:
    class Packed(Ranged):
        def whole(self, key: str) -> Reply:
            reply = super().whole(key)
            reply.headers["Content-Encoding"] = "gzip"
            return reply

    async with serving(Packed({"a.jsonl": gzip.compress(LINES)})) as lake:
        ran = await run(source(lake, format="jsonl"), tmp_path)
        assert ran.records == ROWS


@pytest.mark.slow
async def test_unchanged_objects_are_left_out_when_only_changes_are_read(tmp_path: Path) -> None:
    async with serving(Ranged({"a.jsonl": LINES, "b.jsonl": b""})) as lake:
        first = await run(source(lake, format="jsonl", mode="changed"), tmp_path)
        lake.objects["c.jsonl"] = b'{"id": 7}\n'
        second = await run(source(lake, format="jsonl", mode="changed"), tmp_path)
    assert len(first.records) == 3000
    assert second.records == [{"id": 7}]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "ok"), [("skip", True), ("stop", False)])
async def test_unreadable_objects_are_skipped_or_stop_the_run(tmp_path: Path, option: str, ok: bool) -> None:
    async with serving(Ranged({"a.jsonl": b"\0" * 9, "b.jsonl": LINES})) as lake:
        ran = await run(source(lake, format="jsonl", on_unreadable=option), tmp_path)
        assert ran.report.ok is ok
        assert ran.dead == {}
        assert ran.counted("skipped: unreadable") == ok


async def test_splits_of_streams_end_by_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.objects import source as module

    monkeypatch.setattr(module, "STREAMED_SPLIT_BYTES", 2 * len(LINES))
    async with serving(Ranged({f"{number}.jsonl": LINES for number in range(5)})) as lake:
        made: Any = source(lake, format="jsonl")
        async with made:
            splits = [split async for split in made.splits(Context())]
    assert [len(split.manifest["objects"]) for split in splits] == [2, 2, 1]
