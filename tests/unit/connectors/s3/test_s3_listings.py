"""Listings on servers that continue them differently or wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from connectors.s3 import listing
from connectors.s3.client import open_client
from connectors.s3.resolver import S3Object, S3WildcardResolver
from engine.errors import FatalError, TransientError
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, numbered, refusal, run, serving, source

ALL = list(numbered(25))


async def listed(lake: OddS3, pattern: str = "**") -> list[S3Object]:
    async with serving(lake):
        connection = source(lake).connection
        async with open_client(connection) as client:  # type: ignore[arg-type]
            pattern = f"s3://data/{pattern}"
            return [found async for found in S3WildcardResolver(client).resolve_pattern(pattern)]


async def names(lake: OddS3, pattern: str = "**") -> list[str]:
    return [found.key for found in await listed(lake, pattern)]


class WithoutToken(OddS3):
    def continuation(self, page: list[str]) -> str:
        return ""


class FirstVersionOnly(WithoutToken):
    """Looks at `marker` and at nothing that the second version of the call has."""

    def listing(self, asked: Asked) -> Reply:
        if asked.query.get("list-type") == "2":
            return self.of_second_version(asked)
        return super().listing(Asked("GET", "", self._understood(asked), {}))

    def of_second_version(self, asked: Asked) -> Reply:
        return super().listing(Asked("GET", "", self._understood(asked), {}))

    @staticmethod
    def _understood(asked: Asked) -> dict[str, str]:
        return {"prefix": asked.query.get("prefix", ""), "start-after": asked.query.get("marker", "")}


class Refuses(FirstVersionOnly):
    def of_second_version(self, asked: Asked) -> Reply:
        return refusal(501, "NotImplemented")


class Forgetful(OddS3):
    """Does not look at tokens, and has a new one for each page."""

    def token_after(self, token: str) -> str:
        return ""

    def continuation(self, page: list[str]) -> str:
        return f"<NextContinuationToken>token-{self.lists}</NextContinuationToken>"


class SameToken(Forgetful):
    def continuation(self, page: list[str]) -> str:
        return "<NextContinuationToken>same</NextContinuationToken>"


class Inclusive(OddS3):
    """Each page begins with the last key of the one before."""

    def listing(self, asked: Asked) -> Reply:
        after = self.token_after(asked.query.get("continuation-token", ""))
        keys = sorted(key for key in self.objects if key >= after)
        page, rest = keys[: self.page], keys[self.page :]
        return Reply(200, self.page_xml(page, more=bool(rest)).encode())


class EmptyPages(OddS3):
    """Long runs of deleted objects: every other page is empty, and has a token."""

    def listing(self, asked: Asked) -> Reply:
        token = asked.query.get("continuation-token", "after:")
        if token.startswith("after:"):
            next_page = f"<NextContinuationToken>real{token}</NextContinuationToken>"
            return Reply(
                200,
                f"<ListBucketResult><IsTruncated>true</IsTruncated>{next_page}</ListBucketResult>".encode(),
            )
        return super().listing(asked)

    def token_after(self, token: str) -> str:
        return token.removeprefix("realafter:")


class Lying(OddS3):
    def page_xml(self, page: list[str], *, more: bool) -> str:
        return (
            super().page_xml(page, more=more).replace("<IsTruncated>", "<KeyCount>0</KeyCount><IsTruncated>")
        )


class Unordered(OddS3):
    """Lists in an order of its own, and finds the place of a token in it."""

    def listing(self, asked: Asked) -> Reply:
        keys = sorted(self.objects, key=lambda key: key[::-1])
        token = self.token_after(asked.query.get("continuation-token", ""))
        start = keys.index(token) + 1 if token else 0
        page, rest = keys[start : start + self.page], keys[start + self.page :]
        return Reply(200, self.page_xml(page, more=bool(rest)).encode())


class Twice(OddS3):
    def page_xml(self, page: list[str], *, more: bool) -> str:
        return super().page_xml([key for key in page for _ in range(2)], more=more)


class WithMark(OddS3):
    def listing(self, asked: Asked) -> Reply:
        reply = super().listing(asked)
        reply.body = b"\xef\xbb\xbf\r\n\r\n" + reply.body
        return reply


class CapitalTrue(OddS3):
    def page_xml(self, page: list[str], *, more: bool) -> str:
        return super().page_xml(page, more=more).replace(">true<", "> True <")


class OwnWords(OddS3):
    def page_xml(self, page: list[str], *, more: bool) -> str:
        return super().page_xml(page, more=more).replace(">true<", ">yes<").replace(">false<", ">no<")


class NeverTruncated(OddS3):
    """Names a next page, and says that there is none."""

    def page_xml(self, page: list[str], *, more: bool) -> str:
        return super().page_xml(page, more=more).replace(">true<", ">false<")


class NeverTruncatedForgetful(NeverTruncated, Forgetful):
    """All keys are on the first page, which has a token, too."""

    def page_xml(self, page: list[str], *, more: bool) -> str:
        return super().page_xml(ALL, more=True)


class EmptyNumbers(OddS3):
    def page_xml(self, page: list[str], *, more: bool) -> str:
        numbers = "<KeyCount></KeyCount><MaxKeys/><IsTruncated>"
        xml = super().page_xml(page, more=more).replace("<IsTruncated>", numbers)
        return re.sub(r"<Size>\d+</Size>", "<Size></Size>", xml)


class Nameless(OddS3):
    def entry(self, key: str) -> str:
        return f"<CommonPrefixes/><Contents><Size>1</Size></Contents>{super().entry(key)}"


class PackedByProxy(OddS3):
    def listing(self, asked: Asked) -> Reply:
        reply = super().listing(asked)
        return Reply(200, gzip.compress(reply.body), {"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    "lake",
    [
        CapitalTrue, OwnWords, NeverTruncated, NeverTruncatedForgetful, EmptyNumbers, Nameless,
        PackedByProxy, OddS3, WithoutToken, FirstVersionOnly, Refuses, Forgetful, SameToken, Inclusive,
        EmptyPages, Lying, Unordered, Twice, WithMark,
    ],
)  # fmt: skip
async def test_every_object_is_listed_once_however_pages_continue(lake: type[OddS3]) -> None:
    found = await names(lake(numbered(25), page=10))
    assert sorted(found) == ALL


class FirstPageForever(Forgetful):
    def listing(self, asked: Asked) -> Reply:
        return super().listing(Asked("GET", "", {}, {}))


class EmptyForever(OddS3):
    def listing(self, asked: Asked) -> Reply:
        token = f"<NextContinuationToken>{self.lists}</NextContinuationToken>"
        return Reply(
            200, f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>".encode()
        )


class EmptyWithoutToken(OddS3):
    def listing(self, asked: Asked) -> Reply:
        return Reply(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")


class UnorderedWithoutToken(Unordered):
    def continuation(self, page: list[str]) -> str:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize("lake", [FirstPageForever, EmptyForever, EmptyWithoutToken, UnorderedWithoutToken])
async def test_a_listing_that_does_not_come_further_is_an_error(
    lake: type[OddS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_EMPTY_PAGES", 20)
    with pytest.raises(FatalError, match="objects would be missing"):
        await names(lake(numbered(25), page=10))


@pytest.mark.parametrize(("keys", "message"), [(ALL, ""), ([*ALL[1:], ALL[0]], "out of key order")])
async def test_only_so_many_keys_are_remembered(
    keys: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AsGiven(OddS3):
        def ordered(self, _: list[str]) -> list[str]:
            return keys

    monkeypatch.setattr(listing, "MAX_REMEMBERED", 10)
    if not message:
        assert await names(AsGiven(numbered(25))) == ALL
        return
    with pytest.raises(FatalError, match=message):
        await names(AsGiven(numbered(25)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"please log in",
        b"<html><head/><body><p>Who are you?</p></body></html>",
        b"<!doctype html><html><body>Hello</body></html>",
        b"<?xml version='1.0'?><!-- x --><ListAllMyBucketsResult><Name>x</Name></ListAllMyBucketsResult>",
        b"<ListBucketResult><IsTruncated>false</IsTru",
    ],
)
async def test_an_invalid_listing_is_not_an_empty_bucket(body: bytes) -> None:
    class Page(OddS3):
        def listing(self, asked: Asked) -> Reply:
            return Reply(200, body)

    with pytest.raises(TransientError, match="the answer is not S3's"):
        await names(Page({}))


@pytest.mark.parametrize(
    ("code", "error"),
    [("AccessDenied", FatalError), ("NoSuchBucket", FatalError), ("SlowDown", TransientError)],
)
async def test_an_error_with_status_200_is_an_error(code: str, error: type[Exception]) -> None:
    class Polite(OddS3):
        def listing(self, asked: Asked) -> Reply:
            return refusal(200, code)

    with pytest.raises(error, match=code):
        await names(Polite({}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "date", ["", "<LastModified></LastModified>", "<LastModified>yesterday</LastModified>"]
)
async def test_a_listing_may_leave_out_all_but_the_keys(date: str, tmp_path: Path) -> None:
    class Bare(OddS3):
        def entry(self, key: str) -> str:
            return f"<Contents><Key>{quote(key)}</Key>{date}</Contents>"

        def whole(self, key: str) -> Reply:
            return Reply(200, self.objects[key], chunked=True)

    lake = Bare(numbered(3))
    assert await listed(lake) == [S3Object(key, "", -1) for key in ALL[:3]]
    async with serving(lake):
        ran = await run(source(lake), tmp_path)
    assert [record["content"] for record in ran.records] == ["object 0", "object 1", "object 2"]


@pytest.mark.slow
async def test_keys_that_are_encoded_in_the_listing_are_read_by_their_names(tmp_path: Path) -> None:
    keys = ["a b", "a+b", "a%2Fb", "ü/\u200b", "a\x01b", "&amp;", "a//b"]
    async with serving(OddS3({key: key.encode() for key in keys})) as lake:
        ran = await run(source(lake), tmp_path)
    assert sorted(ran.arrived) == sorted(keys)


async def test_an_empty_bucket_is_nothing_to_read() -> None:
    assert await names(OddS3({})) == []


async def behind(lake: OddS3, after: str, pattern: str = "**") -> list[str]:
    async with serving(lake):
        connection = source(lake).connection
        async with open_client(connection) as client:  # type: ignore[arg-type]
            pages = S3WildcardResolver(client).resolve_pages(f"s3://data/{pattern}", after=after)
            return [found.key async for page in pages for found in page]


class IgnoresWhereToStart(OddS3):
    def listing(self, asked: Asked) -> Reply:
        query = {name: text for name, text in asked.query.items() if name != "start-after"}
        return super().listing(Asked("GET", "", query, {}))


@pytest.mark.slow
@pytest.mark.parametrize("server", [OddS3, WithoutToken, FirstVersionOnly, Refuses, IgnoresWhereToStart])
async def test_a_listing_continues_after_a_key(server: type[OddS3]) -> None:
    assert await behind(server(numbered(25), page=4), "011.txt") == ALL[12:]


async def test_a_listing_that_continues_asks_for_nothing_before() -> None:
    lake = OddS3(numbered(40), page=10)
    assert await behind(lake, "029.txt") == list(numbered(40))[30:]
    assert lake.lists == 1


@pytest.mark.slow
async def test_a_listing_of_several_beginnings_continues_in_its_place() -> None:
    lake = OddS3(dict.fromkeys(("a/1", "a/2", "b/1", "b/2", "c/1", "one", "two"), b"x"))
    pattern = "{one,two,a/*,b/*,c/*}"
    whole = await behind(lake, "", pattern)
    assert whole == ["one", "two", "a/1", "a/2", "b/1", "b/2", "c/1"]
    for place, key in enumerate(whole, 1):
        assert await behind(lake, key, pattern) == whole[place:], key


async def test_a_page_of_nothing_is_not_the_end_of_a_listing() -> None:
    class Stops(OddS3):
        def listing(self, asked: Asked) -> Reply:
            return super().listing(asked) if self.lists == 1 else Reply(200, b"<ListBucketResult/>")

    with pytest.raises(TransientError, match="neither objects nor an end"):
        await names(Stops(numbered(5), page=2))


class Answers(OddS3):
    """Answers every listing with this."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(numbered(3))
        self._listing = reply

    def listing(self, asked: Asked) -> Reply:
        return self._listing


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "<ListBucketResult><Contents><Key>a</Key><Size>many</Size></Contents></ListBucketResult>",
            "not S3's",
        ),
        ("<ListBucketResult><Contents><Key>SECRET-NAME</Key>", "not S3's: Unable to parse response"),
    ],
)
async def test_a_listing_that_cannot_be_read_is_asked_for_again(body: str, message: str) -> None:
    with pytest.raises(TransientError, match=message) as caught:
        await names(Answers(Reply(200, body.encode(), {"Content-Type": "application/xml"})))
    assert "SECRET-NAME" not in str(caught.value)


async def test_a_page_that_is_not_found_is_no_deleted_object() -> None:
    page = Reply(404, b"<html>nope</html>", {"Content-Type": "text/html"})
    with pytest.raises(FatalError, match="check the pattern and the connection's endpoint"):
        await names(Answers(page))


async def test_an_answer_with_invalid_chunks_ends() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n26\r\n<?xml version='1.0'?>")
        await asyncio.sleep(0.01)  # until the client has the head
        writer.write(b"<ListBucketResult>HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    lake = OddS3({})
    lake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, open_client(source(lake).connection) as client:  # type: ignore[arg-type]
        resolver = S3WildcardResolver(client)
        with pytest.raises(TransientError, match="listing"):
            [found async for found in resolver.resolve_pattern("s3://data/**")]


async def test_a_page_that_never_ends_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGE_SECONDS", 0.1)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    lake = OddS3({})
    lake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, open_client(source(lake).connection) as client:  # type: ignore[arg-type]
        with pytest.raises(TransientError, match=r"did not complete a page within 0\.1 s"):
            [found async for found in S3WildcardResolver(client).resolve_pattern("s3://data/**")]
        await ended.wait()
