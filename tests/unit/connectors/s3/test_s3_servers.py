"""Servers other than AWS, and intermediaries."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr

from connectors.objects.compression import zstd
from connectors.s3 import S3Connection, S3Connector, S3Params
from engine.errors import FatalError
from engine.state import RunStatus
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, numbered, refusal, run, serving, source

ALL = list(numbered(5))


class WithoutETag(OddS3):
    def entry(self, key: str) -> str:
        return re.sub("<ETag>.*</ETag>", "", super().entry(key))

    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        del reply.headers["ETag"]
        return reply


class WeakETag(OddS3):
    def etag(self, key: str) -> str:
        return f"W/{super().etag(key)}"

    def get(self, asked: Asked) -> Reply:
        return refusal(412, "PreconditionFailed") if "if-match" in asked.headers else self.whole(asked.key)


class BareETag(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.headers["ETag"] = reply.headers["ETag"].strip('"')
        return reply


class CapitalETag(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.headers["ETag"] = reply.headers["ETag"].upper()
        return reply


class ETagInListingOnly(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        del reply.headers["ETag"]
        return reply


class NeverMatches(OddS3):
    def get(self, asked: Asked) -> Reply:
        return refusal(412, "PreconditionFailed") if "if-match" in asked.headers else self.whole(asked.key)


class KnowsNoConditions(OddS3):
    def get(self, asked: Asked) -> Reply:
        return refusal(501, "NotImplemented") if "if-match" in asked.headers else self.whole(asked.key)


class Chunked(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.chunked = True
        return reply


class UntilItCloses(OddS3):
    """Neither a length nor chunks: the body ends with the connection."""

    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.length = -1
        return reply


class AlwaysPartial(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        size = len(reply.body)
        reply.status, reply.headers["Content-Range"] = 206, f"bytes 0-{size - 1}/{size}"
        return reply


class LongHeaders(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.headers["x-amz-meta-policy"] = "v" * 20_000
        return reply


class OddDates(OddS3):
    def whole(self, key: str) -> Reply:
        reply = super().whole(key)
        reply.headers |= {"Last-Modified": "yesterday", "Expires": "never"}
        return reply


@pytest.mark.slow
@pytest.mark.parametrize(
    "lake",
    [
        WithoutETag, WeakETag, BareETag, CapitalETag, ETagInListingOnly, NeverMatches, KnowsNoConditions,
        Chunked, UntilItCloses, AlwaysPartial, OddDates, LongHeaders,
    ],
)  # fmt: skip
@pytest.mark.parametrize("pattern", ["**", "{000,001,002,003,004}.txt"])
async def test_every_object_is_read_if_the_server_omits_features(
    tmp_path: Path, lake: type[OddS3], pattern: str
) -> None:
    async with serving(lake(numbered(5))) as server:
        ran = await run(source(server, pattern), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (ran.arrived, ran.dead) == (ALL, {})


@pytest.mark.slow
async def test_without_etags_a_changed_object_has_another_key(tmp_path: Path) -> None:
    async with serving(WithoutETag(numbered(3))) as lake:
        assert len((await run(source(lake, mode="changed"), tmp_path)).records) == 3
        assert len((await run(source(lake, mode="changed"), tmp_path)).records) == 0
        lake.objects["001.txt"] = b"longer than it was"
        assert (await run(source(lake, mode="changed"), tmp_path)).arrived == ["001.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 403, 405, 500, 501, 503])
async def test_a_server_that_refuses_head_is_asked_for_a_listing(tmp_path: Path, status: int) -> None:
    class Headless(OddS3):
        def head(self, asked: Asked) -> Reply:
            return Reply(status)

    async with serving(Headless(numbered(3))) as lake:
        ran = await run(source(lake, "001.txt"), tmp_path)
    assert (ran.report.ok, ran.arrived) == (True, ["001.txt"])


@pytest.mark.slow
async def test_one_of_several_names_that_may_not_be_looked_up_dies_alone(tmp_path: Path) -> None:
    class Closed(OddS3):
        def reply(self, asked: Asked) -> Reply:
            if not asked.key or asked.key == "001.txt":
                return refusal(403, "AccessDenied")
            return super().reply(asked)

    async with serving(Closed(numbered(3))) as lake:
        ran = await run(source(lake, "{000,001,002}.txt"), tmp_path)
    assert (ran.report.ok, sorted(ran.arrived)) == (True, ["000.txt", "002.txt"])
    assert ran.dead == {"001.txt": "ObjectForbidden"}


async def test_a_name_that_does_not_exist_is_an_error_without_head_too(tmp_path: Path) -> None:
    class Headless(OddS3):
        def head(self, asked: Asked) -> Reply:
            return Reply(405)

    async with serving(Headless(numbered(3))) as lake, source(lake, "00") as connector:
        with pytest.raises(FatalError, match=r"does not exist .* if it is a folder, `s3://.*/\*\*` matches"):
            _ = [split async for split in connector.splits(connector.ctx)]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"2 tcejbo", b"another length"])
async def test_another_version_than_the_listed_one_is_never_taken_for_it(tmp_path: Path, sent: bytes) -> None:
    class Ignoring(OddS3):
        def get(self, asked: Asked) -> Reply:
            if asked.key != "002.txt":
                return super().get(asked)
            return Reply(200, sent, {"ETag": '"another"'})

    async with serving(Ignoring(numbered(5))) as lake:
        ran = await run(source(lake), tmp_path)
    assert (len(ran.records), ran.dead) == (4, {"002.txt": "ObjectChanged"})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["bytes 0-3/{}", "bytes 0-3/*", "bytes 0-3", None])
async def test_a_part_of_an_object_is_not_mistaken_for_the_whole(tmp_path: Path, part: str | None) -> None:
    class Partial(OddS3):
        def head(self, asked: Asked) -> Reply:
            return Reply(405)

        def entry(self, key: str) -> str:
            return re.sub("<Size>.*</Size>", "", super().entry(key))

        def whole(self, key: str) -> Reply:
            whole = super().whole(key)
            if key == "002.txt":
                whole.status = 206
                if part is not None:
                    whole.headers["Content-Range"] = part.format(len(whole.body))
                whole.body = whole.body[:4]
            return whole

    async with serving(Partial(numbered(5))) as lake:
        ran = await run(source(lake), tmp_path)
    assert (len(ran.records), ran.dead) == (4, {"002.txt": "ObjectUnreadable"})


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("asked_for", ["listing", "object", "look-up"])
async def test_a_redirect_is_never_followed(tmp_path: Path, status: int, asked_for: str) -> None:
    class Redirecting(OddS3):
        target = ""

        def reply(self, asked: Asked) -> Reply:
            what = "look-up" if asked.method == "HEAD" else "object" if asked.key else "listing"
            if what != asked_for:
                return super().reply(asked)
            place = self.target.replace("127.0.0.1", "localhost")
            return Reply(
                status, headers={"Location": f"{place}/data/{asked.key}", "x-amz-bucket-region": "eu-west-1"}
            )

    async with serving(OddS3(numbered(3))) as elsewhere, serving(Redirecting(numbered(3))) as lake:
        lake.target = elsewhere.url  # type: ignore[attr-defined]
        pattern = "001.txt" if asked_for == "look-up" else "**"
        keys = {
            "access_key": SecretStr("k"),
            "secret_key": SecretStr("s"),
            "session_token": SecretStr("TOKEN"),
        }
        connection = S3Connection(endpoint=lake.url, region="us-east-1", **keys)  # type: ignore[arg-type]
        ran = await run(S3Connector(S3Params(pattern=f"s3://data/{pattern}"), connection), tmp_path)
    assert elsewhere.asked == []
    if asked_for == "look-up":  # the listing tells as much
        assert ran.arrived == ["001.txt"]
        return
    assert (ran.report.status, ran.records) == (RunStatus.FAILED, [])
    assert "redirects to http://localhost" in (ran.report.error or "")
    assert "region: eu-west-1" in (ran.report.error or "")


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["My_Data", "tenant:bucket", "a", "UPPER", "x" * 100, "1.2.3.4", "a..b"])
async def test_the_server_says_which_buckets_there_are(tmp_path: Path, bucket: str) -> None:
    async with serving(OddS3(numbered(2))) as lake:
        ran = await run(source(lake, bucket=bucket), tmp_path)
    assert ran.report.ok, ran.report.error
    assert ran.records[0]["file_path"] == f"s3://{bucket}/000.txt"
    assert {path.replace("%3A", ":").split("/")[1] for path in lake.paths} == {bucket}


TEXT = b"the same text again and again\n" * 40
PACKED = {"gzip": gzip.compress(TEXT, mtime=0), "br": brotli.compress(TEXT), "zstd": zstd().compress(TEXT)}


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "packed"), PACKED.items(), ids=list(PACKED))
async def test_a_text_that_is_stored_packed_is_unpacked(tmp_path: Path, encoding: str, packed: bytes) -> None:
    class Packed(OddS3):
        def whole(self, key: str) -> Reply:
            reply = super().whole(key)
            reply.headers["Content-Encoding"] = encoding
            return reply

    async with serving(Packed({"a.txt": packed, "b.txt": TEXT, "c.txt": packed[:-6]})) as lake:
        ran = await run(source(lake), tmp_path)
    assert [record["content"].encode() for record in ran.records] == [TEXT, TEXT]
    assert [record["file_size"] for record in ran.records] == [len(packed), len(TEXT)]
    assert ran.dead == {"c.txt": "ObjectDamaged"}


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "packed"), PACKED.items(), ids=list(PACKED))
async def test_a_text_that_is_packed_on_its_way_is_unpacked(
    tmp_path: Path, encoding: str, packed: bytes
) -> None:
    class Packing(OddS3):
        def whole(self, key: str) -> Reply:
            reply = super().whole(key)
            reply.body, reply.chunked = packed, True
            reply.headers |= {
                "Content-Encoding": encoding,
                "ETag": f'W/{reply.headers["ETag"][:-1]}-{encoding}"',
            }
            return reply

    async with serving(Packing({"a.txt": TEXT})) as lake:
        ran = await run(source(lake), tmp_path)
    assert [record["content"].encode() for record in ran.records] == [TEXT]
    assert ran.records[0]["file_size"] == len(TEXT)


@pytest.mark.slow
async def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    class Packed(OddS3):
        def whole(self, key: str) -> Reply:
            reply = super().whole(key)
            reply.headers["Content-Encoding"] = "gzip"
            return reply

    async with serving(Packed({"a.txt": gzip.compress(bytes(10**7)), "b.txt": gzip.compress(TEXT)})) as lake:
        ran = await run(source(lake, max_object_bytes=10**6), tmp_path)
    assert (len(ran.records), ran.dead) == (1, {"a.txt": "ObjectTooLarge"})


@pytest.mark.slow
async def test_a_body_without_an_end_is_read_only_so_far(tmp_path: Path) -> None:
    class Endless(OddS3):
        def whole(self, key: str) -> Reply:
            reply = super().whole(key)
            if key == "002.txt":
                reply.body, reply.chunked = bytes(5_000_000), True
            return reply

    async with serving(Endless(numbered(5))) as lake:
        ran = await run(source(lake, max_object_bytes=1_000_000), tmp_path)
    assert (len(ran.records), ran.dead) == (4, {"002.txt": "ObjectTooLarge"})
