"""A correct S3 server for tests, each of which overrides one feature."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from pydantic import SecretStr

from connectors.s3 import S3Connection, S3Connector, S3Params
from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.state import DeadLetterFilter
from engine.testing import MemorySink, ScriptedClock, plan_of

BUCKET = "data"


@dataclass
class Reply:
    """An HTTP answer; `cut_after` bytes of the body the connection closes, and `length` is claimed."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    length: int | None = None
    chunked: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire."""
        lines = [
            f"HTTP/1.1 {self.status} Whatever",
            *(f"{name}: {text}" for name, text in self.headers.items()),
        ]
        body = self.body
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        elif self.length != -1:
            lines.append(f"Content-Length: {len(body) if self.length is None else self.length}")
        return (
            "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8", "surrogateescape")
            + body[: self.cut_after]
        )


def refusal(status: int, code: str, message: str = "No.") -> Reply:
    """An error as S3 words it."""
    xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, xml.encode(), {"Content-Type": "application/xml"})


@dataclass
class Asked:
    """A request."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


class OddS3:
    """Serves `objects` from any bucket; `page` keys to a page of the listing."""

    def __init__(self, objects: Mapping[str, bytes], page: int = 1000) -> None:
        self.objects = dict(objects)
        self.page = page
        self.asked: list[Asked] = []
        self.url = ""
        self.paths: list[str] = []

    def gets(self, key: str | None = None) -> int:
        """How often objects, or one of them, were asked for."""
        return sum(one.method == "GET" and one.key == (key or one.key) != "" for one in self.asked)

    @property
    def lists(self) -> int:
        return sum(one.method == "GET" and not one.key for one in self.asked)

    def etag(self, key: str) -> str:
        return f'"{md5(self.objects[key], usedforsecurity=False).hexdigest()}"'

    def reply(self, asked: Asked) -> Reply:
        """Override any of these."""
        if not asked.key:
            return self.listing(asked)
        if asked.key not in self.objects:
            return refusal(404, "NoSuchKey")
        return self.head(asked) if asked.method == "HEAD" else self.get(asked)

    def head(self, asked: Asked) -> Reply:
        whole = self.whole(asked.key)
        whole.length, whole.body = len(whole.body), b""
        return whole

    def get(self, asked: Asked) -> Reply:
        wanted = asked.headers.get("if-match")
        if wanted is not None and wanted != self.etag(asked.key):
            return refusal(412, "PreconditionFailed")
        return self.whole(asked.key)

    def whole(self, key: str) -> Reply:
        return Reply(200, self.objects[key], {"ETag": self.etag(key), "Content-Type": "text/plain"})

    def listing(self, asked: Asked) -> Reply:
        prefix = asked.query.get("prefix", "")
        after = max(
            asked.query.get("start-after", ""), self.token_after(asked.query.get("continuation-token", ""))
        )
        keys = self.ordered([key for key in self.objects if key.startswith(prefix)])
        keys = [key for key in keys if key > after]
        page, rest = keys[: self.page], keys[self.page :]
        return Reply(200, self.page_xml(page, more=bool(rest)).encode(), {"Content-Type": "application/xml"})

    def token_after(self, token: str) -> str:
        """The key behind which a token continues."""
        return token.removeprefix("after:")

    def ordered(self, keys: list[str]) -> list[str]:
        return sorted(keys)

    def page_xml(self, page: list[str], *, more: bool) -> str:
        return (
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult "
            "xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            + (self.continuation(page) if more else "")
            + "".join(map(self.entry, page))
            + "</ListBucketResult>"
        )

    def continuation(self, page: list[str]) -> str:
        return f"<NextContinuationToken>after:{escape(page[-1])}</NextContinuationToken>"

    def entry(self, key: str) -> str:
        return (
            f"<Contents><Key>{quote(key)}</Key><ETag>{escape(self.etag(key))}</ETag>"
            f"<Size>{len(self.objects[key])}</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
        )

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head.split(" ")
            path, _, query = target.partition("?")
            self.paths.append(path)
            _, _, key = path.lstrip("/").partition("/")
            headers = {
                name.lower(): text for name, _, text in (line.partition(": ") for line in lines if line)
            }
            if headers.get("expect") == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = Asked(method, unquote(key), dict(parse_qsl(query, keep_blank_values=True)), headers, body)
            self.asked.append(asked)
            writer.write(self.reply(asked).encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(lake: OddS3) -> AsyncGenerator[OddS3, None]:
    """Listen on a free port of this machine."""
    listening = await asyncio.start_server(lake._handle, "127.0.0.1", 0)
    lake.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield lake
    finally:
        listening.close()
        await listening.wait_closed()


def numbered(count: int) -> dict[str, bytes]:
    """So many small objects: `000.txt` and on."""
    return {f"{number:03d}.txt": f"object {number}".encode() for number in range(count)}


def source(lake: OddS3, pattern: str = "**", *, bucket: str = BUCKET, **params: Any) -> S3Connector:
    """The source that reads everything of a server."""
    keys = {"access_key": SecretStr("key"), "secret_key": SecretStr("secret")}
    connection = S3Connection(endpoint=lake.url, region="us-east-1", **keys)  # type: ignore[arg-type]
    return S3Connector(S3Params(pattern=f"s3://{bucket}/{pattern}", **params), connection)


@dataclass
class Ran:
    """The outcome of a run."""

    report: RunReport
    records: list[dict[str, Any]]
    dead: dict[str, str]
    """The kind of each dead letter by its object."""
    slept: list[float]

    @property
    def arrived(self) -> list[str]:
        return [record["file_path"].partition("://")[2].partition("/")[2] for record in self.records]

    def counted(self, name: str) -> float:
        """A number that the source reports."""
        return self.report.nodes[0].aggregate.get(name, 0)


async def run(connector: S3Connector, state_dir: Path, **settings: Any) -> Ran:
    """Run a source into a sink that remembers, without ever waiting for long."""
    sink = MemorySink()
    plan = plan_of(
        {"read": (connector, []), "write": (sink, ["read"])},
        options={"read": NodeOptions(retry=RetryOptions(attempts=3, base=0.01, cap=0.05))},
        settings=Settings(**{"outage_limit": 1.0, **settings}),
    )
    clock = ScriptedClock(jump=True)
    async with Engine(state_dir=state_dir, clock=clock) as engine:
        report = await engine.run(plan)
        letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
    dead = {letter.record["file_path"].rpartition(f"{BUCKET}/")[2]: letter.error_type for letter in letters}
    return Ran(report, sink.records, dead, clock.slept)
