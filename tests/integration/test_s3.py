"""The S3 source against moto over real HTTP, and against a small server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

import anyio
import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from pydantic import SecretStr, ValidationError

from connectors.s3.client import S3Connection, open_client
from connectors.s3.connections import _Connection
from connectors.s3.reader import S3FileReader
from connectors.s3.resolver import S3Object, S3WildcardResolver
from connectors.s3.source import S3Connector, S3Params
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.split import Split
from engine.errors import FatalError, RecordError, TransientError
from engine.flow.budget import ByteBudget
from tests.series import few

BUCKET = "some.bucket"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def connection(endpoint: str) -> S3Connection:
    return S3Connection(
        endpoint=endpoint, access_key=SecretStr("key"), secret_key=SecretStr("secret"), region="us-east-1"
    )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server: str) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=server,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        found = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
        if found:
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": found})
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def put(s3: Any, objects: dict[str, bytes], **options: str) -> None:
    for key, body in objects.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)


def put_many(keys: Iterable[str]) -> None:
    """Put empty objects straight into the server, which runs in this process: it takes a hundredth."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in keys:
        backend.put_object(BUCKET, key, b"")


def source(server: str, pattern: str = "**", **params: Any) -> S3Connector:
    return S3Connector(S3Params(pattern=f"s3://{BUCKET}/{pattern}", **params), connection(server))


async def resolved(server: str, uri: str) -> list[S3Object]:
    async with open_client(connection(server)) as client:
        return [found async for found in S3WildcardResolver(client).resolve_pattern(uri)]


async def keys(server: str, pattern: str) -> list[str]:
    return [found.key for found in await resolved(server, f"s3://{BUCKET}/{pattern}")]


async def read_all(connector: S3Connector, ctx: Context | None = None) -> list[Batch]:
    ctx = ctx or connector.ctx
    splits = [split async for split in connector.splits(ctx)]
    batches: list[Batch] = []
    for split in splits:
        async with aclosing(connector.read(split, None, ctx)) as reading:
            batches += [batch async for batch in reading]
    return batches


class TestResolver:
    TREE = (
        "a.txt", "memos/", "memos/1.txt", "memos/2.pdf", "memos/2025/3.txt", "memos/2025/01/4.txt",
        "memos//5.txt", "memos/.hidden.txt", "memos/[urgent] #18.txt", "memos/100% + & 19.txt",
        "memos/Über/6.txt", "other/1.txt",
    )  # fmt: skip

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        few(
            [
                ("*", ["a.txt"]),
                ("*.txt", ["a.txt"]),
                ("memos/*.txt", ["100% + & 19.txt", ".hidden.txt", "1.txt", "[urgent] #18.txt"]),
                ("memos/**/3.txt", ["2025/3.txt"]),
                ("memos/**/1.txt", ["1.txt"]),
                (
                    "memos/*.{txt,pdf}",
                    ["100% + & 19.txt", ".hidden.txt", "1.txt", "2.pdf", "[urgent] #18.txt"],
                ),
                ("memos/?.txt", ["1.txt"]),
                ("memos/[0-9].*", ["1.txt", "2.pdf"]),
                ("memos/2025/*", ["2025/3.txt"]),
                ("memos/2025/**", ["2025/01/4.txt", "2025/3.txt"]),
                ("memos/*/*.txt", ["2025/3.txt", "Über/6.txt"]),
                (r"memos/\[urgent\] #18.txt", ["[urgent] #18.txt"]),
                ("memos/100% + & 19.txt", ["100% + & 19.txt"]),
                ("{memos/1.txt,memos/1*,memos/*.txt,memos/nothing}", None),
                ("nothing/**", []),
            ],
            6,
            several=True,
        ),
    )
    async def test_a_pattern_means_what_the_table_says(
        self, server: str, s3: Any, pattern: str, expected: list[str] | None
    ) -> None:
        put(s3, dict.fromkeys(self.TREE, b""))
        found = await keys(server, pattern)
        assert len(found) == len(set(found))
        if expected is None:
            expected = ["100% + & 19.txt", ".hidden.txt", "1.txt", "[urgent] #18.txt"]
        assert {key.removeprefix("memos/") for key in found} == set(expected)

    @pytest.mark.slow
    async def test_everything_leaves_out_only_directory_markers(self, server: str, s3: Any) -> None:
        put(s3, dict.fromkeys(self.TREE, b""))
        assert sorted(await keys(server, "**")) == sorted(set(self.TREE) - {"memos/"})

    @pytest.mark.slow
    async def test_odd_keys_are_read_as_they_are(self, server: str, s3: Any) -> None:
        odd = {"a//b.txt": b"1", "c/+ %20 &=?#.txt": b"2", "d/.../e.txt": b"3"}
        put(s3, odd)
        async with source(server) as connector:
            batches = await read_all(connector)
        found = {record["file_path"]: record["content"] for batch in batches for record in batch.records}
        assert found == {f"s3://{BUCKET}/{key}": body.decode() for key, body in odd.items()}

    @pytest.mark.slow
    async def test_pages_are_followed_to_the_end_in_key_order(self, server: str, s3: Any) -> None:
        put_many(f"p/{number:04d}" for number in range(1005))
        assert await keys(server, "p/*") == [f"p/{number:04d}" for number in range(1005)]

    @pytest.mark.slow
    async def test_an_object_comes_with_its_etag_size_and_time(self, server: str, s3: Any) -> None:
        put(s3, {"x.txt": b"hello"})
        for pattern in ("x.txt", "*.txt"):
            (found,) = await resolved(server, f"s3://{BUCKET}/{pattern}")
            assert (found.key, found.etag, found.size) == ("x.txt", "5d41402abc4b2a76b9719d911017c592", 5)
            assert found.last_modified.endswith("+00:00")

    @pytest.mark.slow
    async def test_one_name_that_does_not_exist_is_an_error(self, server: str, s3: Any) -> None:
        with pytest.raises(FatalError, match=r"s3://some\.bucket/no\.txt does not exist"):
            await keys(server, "no.txt")

    @pytest.mark.slow
    async def test_a_missing_bucket_is_an_error_and_not_empty(self, server: str) -> None:
        with pytest.raises(FatalError, match=r"bucket 'missing'.*NoSuchBucket.*check the address"):
            await resolved(server, "s3://missing/**")


class TestReading:
    @pytest.mark.slow
    async def test_text_and_binary_files_come_out_right(self, server: str, s3: Any) -> None:
        memo = "Überweisung „Größe“ 5 €"
        files = {
            "t/utf8.txt": memo.encode(),
            "t/utf16.txt": memo.encode("utf-16"),
            "t/windows.txt": memo.encode("cp1252"),
            "t/empty.txt": b"",
            "t/scan.png": PNG,
            "t/big.txt": memo.encode() * 20_000,
        }
        put(s3, files)
        async with source(server, "t/*") as connector:
            batches = await read_all(connector)
        records = {
            record["file_path"].rpartition("/")[2]: record for batch in batches for record in batch.records
        }
        assert records["utf8.txt"].pop("last_modified")
        assert records["utf8.txt"] == {
            "file_path": f"s3://{BUCKET}/t/utf8.txt",
            "content": memo,
            "content_type": "text/plain",
            "file_size": len(memo.encode()),
            "is_binary": False,
            "source_uri": f"s3://{BUCKET}/t/utf8.txt",
            "etag": md5(memo.encode()).hexdigest(),
            "version_id": None,
            "encoding": "utf-8",
            "encoding_guessed": False,
            "replaced_characters": 0,
        }
        assert records["utf16.txt"]["content"] == records["windows.txt"]["content"] == memo
        assert records["empty.txt"]["content"] == ""
        assert records["big.txt"]["content"] == memo * 20_000
        assert (
            records["scan.png"]["content"]
            == "[IMAGE_DATA]data:image/png;base64," + base64.b64encode(PNG).decode()
        )
        assert records["scan.png"]["file_size"] == len(PNG)

    @pytest.mark.slow
    async def test_batches_carry_keys_ordinals_and_positions(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:03d}.txt": b"hello" for number in range(40)})
        async with source(server, "*.txt", concurrency=3, split_objects=25) as connector:
            splits = [split async for split in connector.splits(connector.ctx)]
            assert [(split.key, split.first_ordinal) for split in splits] == [("000000", 0), ("000001", 25)]
            assert splits[1].manifest["bucket"] == BUCKET
            assert splits[1].manifest["objects"][0] == ["025.txt", "5d41402abc4b2a76b9719d911017c592", 5]
            batches = await read_all(connector)
        assert [key for batch in batches for key in batch.keys.to_list()] == [
            f"{BUCKET}/{number:03d}.txt@5d41402abc4b2a76b9719d911017c592" for number in range(40)
        ]
        assert [n for batch in batches for n in batch.keys.ordinals()] == list(range(40))
        assert [batch.position for batch in batches] == [16, 25, 15]

    @pytest.mark.slow
    async def test_a_read_continues_at_any_position(self, server: str, s3: Any) -> None:
        put(s3, {f"{number}.txt": str(number).encode() for number in range(9)})
        async with source(server, "*.txt") as connector:
            (split,) = [split async for split in connector.splits(connector.ctx)]
            for position in range(10):
                batches = [batch async for batch in connector.read(split, position, connector.ctx)]
                contents = [record["content"] for batch in batches for record in batch.records]
                assert contents == [str(number) for number in range(position, 9)]
                assert [n for batch in batches for n in batch.keys.ordinals()] == list(range(position, 9))

    @pytest.mark.slow
    async def test_changed_and_vanished_objects_die_alone(self, server: str, s3: Any) -> None:
        put(s3, {f"{number}.txt": b"before" for number in range(4)})
        async with source(server, "*.txt") as connector:
            (split,) = [split async for split in connector.splits(connector.ctx)]
            put(s3, {"1.txt": b"behind"})
            s3.delete_object(Bucket=BUCKET, Key="2.txt")
            (batch,) = [batch async for batch in connector.read(split, None, connector.ctx)]
        assert [(index, error.kind) for index, error in batch.failures if isinstance(error, RecordError)] == [
            (1, "ObjectChanged"),
            (2, "ObjectVanished"),
        ]
        assert [record.get("content") for record in batch.records] == ["before", None, None, "before"]
        stub = batch.records[1]
        assert (stub["file_path"], stub["file_size"]) == (f"s3://{BUCKET}/1.txt", 6)
        assert "changed after it was listed" in stub["error"]
        assert len(batch.keys.to_list()) == 4
        assert batch.position == 4

    @pytest.mark.slow
    async def test_a_too_large_object_is_not_even_asked_for(self, server: str, s3: Any) -> None:
        put(s3, {"a.txt": b"x" * 11, "b.txt": b"x" * 10})
        async with source(server, "*.txt", max_object_bytes=10) as connector:
            (batch,) = await read_all(connector)
        ((index, error),) = batch.failures
        assert index == 0
        assert isinstance(error, RecordError)
        assert error.kind == "ObjectTooLarge"
        assert "more than the 10 of `max_object_bytes`" in str(error)

    @pytest.mark.slow
    async def test_the_charset_parameter_serves_files_that_say_nothing(self, server: str, s3: Any) -> None:
        put(s3, {"x.txt": "Привет".encode("koi8-r")})
        async with source(server, "x.txt", charset="koi8-r") as connector:
            (batch,) = await read_all(connector)
        assert batch.records[0]["content"] == "Привет"

    async def test_minio_addresses_are_kept_beside_s3_ones(self, server: str, s3: Any) -> None:
        put(s3, {"x.txt": b"hello"})
        connector = S3Connector(S3Params(pattern=f"minio://{BUCKET}/*"), connection(server))
        files = [found async for found in connector.extract()]
        assert [found.source_uri for found in files] == [f"minio://{BUCKET}/x.txt"]
        assert [found.file_path for found in files] == [f"s3://{BUCKET}/x.txt"]

    @pytest.mark.slow
    async def test_a_draining_read_ends_at_a_batch_boundary(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:03d}.txt": b"x" for number in range(40)})
        draining = False
        ctx = Context(draining=lambda: draining)
        async with source(server, "*.txt", concurrency=1) as connector:
            (split,) = [split async for split in connector.splits(ctx)]
            async with aclosing(connector.read(split, None, ctx)) as reading:
                first = await anext(reading)
                draining = True
                assert await anext(reading, None) is None
        assert first.position == 16

    @pytest.mark.slow
    async def test_read_file_takes_the_address_literally(self, server: str, s3: Any) -> None:
        put(s3, {"memo [1] *.txt": b"hello"})
        async with open_client(connection(server)) as client:
            found = await S3FileReader(client).read_file(f"s3://{BUCKET}/memo [1] *.txt")
            assert (found.content, found.content_type, found.file_size) == ("hello", "text/plain", 5)
            with pytest.raises(RecordError) as raised:
                await S3FileReader(client).read_file(f"s3://{BUCKET}/nothing")
            assert raised.value.kind == "ObjectVanished"


class TestExtract:
    @pytest.mark.slow
    async def test_it_yields_every_file_of_every_split_without_a_pipeline(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:02d}.txt": str(number).encode() for number in range(30)})
        connector = source(server, "*.txt", split_objects=7)
        files = [found async for found in connector.extract()]
        assert sorted(int(found.content) for found in files) == list(range(30))

    @pytest.mark.slow
    async def test_an_unreadable_object_is_raised_and_not_passed_over(self, server: str, s3: Any) -> None:
        put(s3, {"a.txt": b"x" * 11})
        with pytest.raises(RecordError, match="max_object_bytes"):
            _ = [found async for found in source(server, "*.txt", max_object_bytes=10).extract()]

    @pytest.mark.slow
    async def test_leaving_early_closes_the_connection(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:02d}.txt": b"x" for number in range(30)})
        async with aclosing(source(server, "*.txt", split_objects=7).extract()) as files:
            assert (await anext(files)).content == "x"
        gc.collect()  # an open session or connector would warn now, and warnings are errors


class TestBudget:
    @pytest.mark.slow
    async def test_every_reservation_is_handed_on_or_given_back(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:02d}.txt": b"x" * 20_000 for number in range(30)})
        budget = ByteBudget(300_000)
        ctx = Context(memory_budget=budget)
        async with source(server, "*.txt") as connector:
            (split,) = [split async for split in connector.splits(ctx)]
            seen = 0
            async for batch in connector.read(split, None, ctx):
                assert batch.reservation is not None
                seen += len(batch)
                batch.reservation.release()
            assert (seen, budget.in_use) == (30, 0)
            assert budget.peak <= 300_000
            async with aclosing(connector.read(split, None, ctx)) as reading:
                first = await anext(reading)
                assert first.reservation is not None
                assert budget.in_use >= first.nbytes
            assert budget.in_use == first.nbytes
            first.reservation.release()
            assert budget.in_use == 0

    @pytest.mark.slow
    async def test_a_stalled_consumer_stalls_reading(self, server: str, s3: Any) -> None:
        put(s3, {f"{number:02d}.txt": b"x" * 90_000 for number in range(20)})
        budget = ByteBudget(600_000)
        ctx = Context(memory_budget=budget)
        async with source(server, "*.txt") as connector:
            (split,) = [split async for split in connector.splits(ctx)]
            async with aclosing(connector.read(split, None, ctx)) as reading:
                held = [await anext(reading)]
                await anyio.wait_all_tasks_blocked()
                assert budget.waiting
                assert budget.in_use <= 600_000
                assert held[0].reservation is not None
                held[0].reservation.release()
                assert len(await anext(reading)) > 0


def answer(status: str, body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def failure(status: str, code: str, **headers: str) -> bytes:
    return answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), **headers)  # type: ignore[arg-type]


Respond = Callable[[str, str], bytes | Awaitable[bytes]]


@dataclass
class Raw:
    """A server with scripted answers that records requests."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    open: int = 0
    most: int = 0


@asynccontextmanager
async def raw_server(respond: Respond) -> AsyncGenerator[Raw, None]:
    raw = Raw()
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        raw.open += 1
        raw.most = max(raw.most, raw.open)
        try:
            method, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
            raw.asked.append(f"{method} {path.partition('?')[0]}")
            made = respond(method, path)
            writer.write(made if isinstance(made, bytes) else await made)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            raw.open -= 1
            handlers.discard(task)
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        listening.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await listening.wait_closed()


def split_of(*sizes: int) -> Split:
    entries = [[f"{number:02d}.txt", "e", size] for number, size in enumerate(sizes)]
    return Split("000000", {"bucket": BUCKET, "objects": entries})


async def first_error(respond: Respond) -> BaseException:
    async with raw_server(respond) as raw, source(raw.url) as connector:
        try:
            async with aclosing(connector.read(split_of(5), None, connector.ctx)) as reading:
                batch = await anext(reading)
                ((_, error),) = batch.failures
                return error
        except (TransientError, FatalError) as error:
            return error


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            ("503 Slow Down", "SlowDown"),
            ("429 Too Many Requests", "TooManyRequests"),
            ("500 Internal Server Error", "InternalError"),
            ("502 Bad Gateway", "whatever"),
            ("400 Bad Request", "RequestTimeout"),
        ],
    )
    async def test_transient_failures_are_recognised(self, status: str, code: str) -> None:
        error = await first_error(lambda *_: failure(status, code, Retry_After="7"))
        assert isinstance(error, TransientError)
        assert error.retry_after == 7

    @pytest.mark.parametrize(
        ("status", "code", "remedy"),
        [
            ("403 Forbidden", "AccessDenied", "grant s3:ListBucket and s3:GetObject"),
            ("403 Forbidden", "InvalidAccessKeyId", "check `access_key`"),
            ("403 Forbidden", "SignatureDoesNotMatch", "check `secret_key`"),
            ("404 Not Found", "NoSuchBucket", "no such bucket"),
            ("400 Bad Request", "ExpiredToken", "renew the credentials"),
            ("400 Bad Request", "SomethingElse", "no"),
        ],
    )
    async def test_permanent_failures_are_fatal_and_name_a_remedy(
        self, status: str, code: str, remedy: str
    ) -> None:
        error = await first_error(lambda *_: failure(status, code))
        assert isinstance(error, FatalError)
        assert str(error).startswith(f"bucket {BUCKET!r}, reading '00.txt': {code}: ")
        assert remedy in str(error)

    async def test_an_archived_object_is_that_objects_own_failure(self) -> None:
        error = await first_error(lambda *_: failure("403 Forbidden", "InvalidObjectState"))
        assert isinstance(error, RecordError)
        assert error.kind == "ObjectArchived"

    async def test_denied_listing_is_an_error_and_not_empty(self) -> None:
        async with raw_server(lambda *_: failure("403 Forbidden", "AccessDenied")) as raw:
            with pytest.raises(FatalError, match=r"bucket 'some\.bucket', listing 'memos/': AccessDenied"):
                await keys(raw.url, "memos/**")

    @pytest.mark.parametrize("sent", [b"", b"he"])
    async def test_a_body_that_breaks_off_is_transient(self, sent: bytes) -> None:
        error = await first_error(lambda *_: answer("200 OK", sent, length=5, ETag='"e"'))
        assert isinstance(error, TransientError)

    async def test_a_body_shorter_than_listed_is_transient(self) -> None:
        error = await first_error(lambda *_: answer("200 OK", b"he", ETag='"e"'))
        assert isinstance(error, TransientError)
        assert "2 bytes arrived of 5" in str(error)

    @pytest.mark.slow
    async def test_a_body_of_unknown_length_is_checked_against_the_listing(self) -> None:
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhe\r\n0\r\n\r\n"
        )
        assert isinstance(await first_error(lambda *_: chunked), TransientError)

    async def test_an_answer_that_is_larger_than_allowed_is_not_read(self) -> None:
        def respond(method: str, path: str) -> bytes:
            return answer("200 OK", b"x", length=10**12)

        async with raw_server(respond) as raw, open_client(connection(raw.url)) as client:
            with pytest.raises(RecordError) as raised:
                await S3FileReader(client).read_file(f"s3://{BUCKET}/x")
        assert raised.value.kind == "ObjectTooLarge"

    async def test_a_precondition_that_failed_by_mistake_is_read_once_more(self) -> None:
        answers = [
            failure("412 Precondition Failed", "PreconditionFailed"),
            answer("200 OK", b"hello", ETag='"e"'),
        ]
        async with (
            raw_server(lambda *_: answers.pop(0)) as raw,
            source(raw.url) as connector,
        ):
            (batch,) = [one async for one in connector.read(split_of(5), None, connector.ctx)]
        assert [record["content"] for record in batch.records] == ["hello"]
        assert [line.split()[0] for line in raw.asked] == ["GET", "GET"]

    @pytest.mark.parametrize("body", [b"<html><p>please log in", b"please log in"])
    async def test_a_page_that_is_no_s3_answer_is_transient(self, body: bytes) -> None:
        async with raw_server(lambda *_: answer("200 OK", body)) as raw:
            with pytest.raises(TransientError):
                await keys(raw.url, "**")

    async def test_a_refused_connection_is_transient(self, unused_tcp_port: int) -> None:
        with pytest.raises(TransientError, match=r"bucket 'some\.bucket', listing"):
            await keys(f"http://127.0.0.1:{unused_tcp_port}", "**")

    async def test_reading_continues_after_a_failed_object(self) -> None:
        broken = True

        def respond(method: str, path: str) -> bytes:
            if broken and path.endswith("/03.txt"):
                return failure("503 Slow Down", "SlowDown")
            return answer("200 OK", path[-6:-4].encode())

        budget = ByteBudget(1_000_000)
        ctx = Context(memory_budget=budget)
        async with raw_server(respond) as raw, source(raw.url) as connector:
            reading = connector.read(split_of(2, 2, 2, 2, 2, 2), None, ctx)
            batches = [await anext(reading)]
            with pytest.raises(TransientError):
                await anext(reading)
            assert [batch.position for batch in batches] == [3]
            assert budget.in_use == sum(batch.nbytes for batch in batches)
            broken = False
            again = connector.read(split_of(2, 2, 2, 2, 2, 2), batches[-1].position, ctx)
            batches += [batch async for batch in again]
        contents = [record["content"] for batch in batches for record in batch.records]
        assert contents == ["00", "01", "02", "03", "04", "05"]

    @pytest.mark.slow
    async def test_never_more_objects_at_once_than_allowed(self) -> None:
        release = asyncio.Event()
        full = asyncio.Event()

        async def hold(path: str) -> bytes:
            if raw.open == 3:
                full.set()
            await release.wait()
            return answer("200 OK", b"x")

        async with (
            raw_server(lambda _, path: hold(path)) as raw,
            source(raw.url, concurrency=3) as connector,
        ):
            async with aclosing(connector.read(split_of(*[1] * 40), None, connector.ctx)) as reading:
                first = asyncio.ensure_future(anext(reading))
                await full.wait()
                release.set()
                assert len(await first) == 16
                assert sum([len(batch) async for batch in reading]) == 24
        assert raw.most == 3

    @pytest.mark.slow
    async def test_cancelling_a_read_leaves_nothing_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[asyncio.BaseTransport] = []
        made = _Connection.connection_made

        def remember(self: _Connection, transport: asyncio.BaseTransport) -> None:
            made(self, transport)
            opened.append(transport)

        monkeypatch.setattr(_Connection, "connection_made", remember)
        asked = asyncio.Event()

        async def never(path: str) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

        budget = ByteBudget(1_000_000)
        ctx = Context(memory_budget=budget)

        async def read() -> None:
            async with source(raw.url) as connector:
                async with aclosing(connector.read(split_of(1, 1, 1), None, ctx)) as reading:
                    await anext(reading)

        async with raw_server(lambda _, path: never(path)) as raw:
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await asked.wait()
                group.cancel_scope.cancel()
        assert budget.in_use == 0
        assert {transport.is_closing() for transport in opened} == {True}
        gc.collect()


class TestConnection:
    async def test_a_server_of_the_user_never_gets_this_machines_keys(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "private")
        async with raw_server(lambda *_: failure("403 Forbidden", "AccessDenied")) as raw:
            connector = S3Connector(S3Params(pattern="s3://bucket/**"), S3Connection(endpoint=raw.url))
            with pytest.raises(FatalError, match="AWS credentials are sent only to AWS"):
                await connector.__aenter__()
            assert raw.asked == []

    @pytest.mark.slow
    async def test_an_anonymous_request_is_not_signed(self, server: str, s3: Any) -> None:
        seen: list[str] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
            writer.write(failure("403 Forbidden", "AccessDenied"))
            await writer.drain()
            writer.close()

        listening = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with open_client(S3Connection(endpoint=url, anonymous=True)) as client:
            with pytest.raises(FatalError):
                _ = [one async for one in S3WildcardResolver(client).resolve_pattern("s3://bucket/**")]
        listening.close()
        await listening.wait_closed()
        assert "authorization" not in seen[0]

    @pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x"])
    def test_an_endpoint_of_another_scheme_is_refused(self, endpoint: str) -> None:
        with pytest.raises(ValidationError, match="must begin with http:// or https://"):
            S3Connection(endpoint=endpoint, anonymous=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"access_key": "x"}, "needs both `access_key` and `secret_key`"),
        ],
    )
    async def test_a_connection_that_cannot_work_is_refused(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(FatalError, match=message):
            async with open_client(S3Connection(**options)):
                pass

    @pytest.mark.parametrize(
        ("endpoint", "custom", "url"),
        [
            (None, False, None),
            ("", False, None),
            ("https://s3.amazonaws.com", False, None),
            ("https://s3.eu-west-1.amazonaws.com", False, "https://s3.eu-west-1.amazonaws.com"),
            ("https://amazonaws.com.example.org", True, "https://amazonaws.com.example.org"),
            ("http://localhost:9000", True, "http://localhost:9000"),
        ],
    )
    def test_aws_is_distinguished_from_other_servers(
        self, endpoint: str | None, custom: bool, url: str | None
    ) -> None:
        made = S3Connection(endpoint=endpoint)
        assert (made.custom, made.endpoint_url) == (custom, url)

    async def test_a_minio_address_needs_an_endpoint(self) -> None:
        with pytest.raises(FatalError, match="needs the `endpoint`"):
            await S3Connector(S3Params(pattern="minio://bucket/**"), S3Connection()).__aenter__()

    def test_secrets_do_not_show(self) -> None:
        shown = repr(connection("http://x"))
        assert "secret'" not in shown
        assert "'key'" not in shown
