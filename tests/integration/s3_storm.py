"""MinIO behind a proxy with all kinds of faults, each in 1 % of the GETs, and a run against it.

`python -m tests.integration.s3_storm --objects 5000` runs it at length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import aiohttp
import boto3
from yarl import URL

from connectors.s3 import S3Connection, S3Connector, S3Params
from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.execution.engine import Engine
from engine.state import DeadLetterFilter
from engine.testing import MemorySink, plan_of
from tests.servers.minio import keys, refill, running_minio

__all__ = ["FAULTS", "Storm", "StormOutcome", "run_storm"]

BUCKET = "storm"
FAULTS = (
    "truncation",
    "reset",
    "503",
    "429",
    "stall",
    "wrong length",
    "changed before",
    "changed midway",
)
NEVER = ("500", "truncation", "reset", "403", "wrong length")
BEGIN = f"s3://{BUCKET}/"
KINDS = {"403": "ObjectForbidden"}
OF_BODIES = ("truncation", "reset", "stall", "wrong length", "changed midway")
STALL_SECONDS = 30.0
PROBE = "bytes=0-0"
READ_TIMEOUT = 5.0


@dataclass
class Storm:
    """The proxy.

    Args:
        minio: address of the server behind it.
        share: of the GETs of objects that each fault strikes.
        never: objects that never work, and why.
        sizes: bytes of each object.
    """

    minio: str
    share: float
    never: Mapping[str, str]
    sizes: Mapping[str, int]
    seed: int = 1
    url: str = ""
    gets: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    """Requests whose reader had enough of waiting before there was an answer, on a busy machine."""
    changed: dict[str, asyncio.Event] = field(default_factory=dict)
    """Set as soon as the object is another one."""

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._client = boto3.client(
            "s3",
            endpoint_url=self.minio,
            aws_access_key_id=keys()["access_key"],
            aws_secret_access_key=keys()["secret_key"],
            region_name="us-east-1",
        )

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Storm, None]:
        """Listen on a free port of this machine."""
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._handlers: set[asyncio.Task[Any]] = set()
            try:
                yield self
            finally:
                server.close()
                for handler in self._handlers:
                    handler.cancel()
                await asyncio.gather(*self._handlers, return_exceptions=True)
                await server.wait_closed()
                self._client.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head.split(" ")
        headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines if line)}
        key = unquote(target.partition("?")[0]).removeprefix(f"/{BUCKET}").lstrip("/")
        fault = ""
        if method == "GET" and key:
            self.gets[key] += 1
            fault = self.never.get(key) or self._draw()
            if key in self.changed or (fault in OF_BODIES and not self.sizes[key]):
                fault = ""  # what has no bytes cannot lack any
            if fault.startswith("changed") and headers.get("range") == PROBE:
                fault = ""  # it may have been delivered already
            if fault and key not in self.never:
                self.struck[fault] += 1
            if fault.startswith("changed"):
                self.changed[key] = asyncio.Event()
            elif key in self.changed:  # a reader that had enough of waiting asks again meanwhile
                await self.changed[key].wait()
            if fault == "changed before":
                await self._change(key)
        if fault in ("503", "429", "500", "403"):
            await self._refuse(writer, int(fault))
            return
        url = URL(f"{self.minio}{target}", encoded=True)
        async with self._session.request(method, url, headers=headers) as answer:
            body = await answer.read()
            status, passed = answer.status, answer.headers
        if method == "GET" and key and key not in self.never and reader.at_eof():
            self.given_up += 1
        if fault == "changed midway":
            await self._change(key)
        await self._send(reader, writer, status, passed, body, fault)

    def _draw(self) -> str:
        number = int(self._random.random() / self.share) if self.share else len(FAULTS)
        return FAULTS[number] if number < len(FAULTS) else ""

    async def _change(self, key: str) -> None:
        await asyncio.to_thread(
            self._client.put_object, Bucket=BUCKET, Key=key, Body=b'{"wrong": "this was never listed"}\n' * 50
        )
        self.changed[key].set()

    @staticmethod
    async def _refuse(writer: asyncio.StreamWriter, status: int) -> None:
        code = {503: "SlowDown", 429: "TooManyRequests", 500: "InternalError", 403: "AccessDenied"}[status]
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        writer.write(
            f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    @staticmethod
    async def _send(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        fault: str,
    ) -> None:
        whole = len(body)
        sent = body if not fault or fault == "changed before" else body[: whole // 2]
        length = len(sent) if fault == "wrong length" else whole
        kept = [
            f"{name}: {text}"
            for name, text in headers.items()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        ]
        lines = [f"HTTP/1.1 {status} Whatever", *kept, f"Content-Length: {length}"]
        lines += ["Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + sent)
        await writer.drain()
        if fault == "stall":
            with suppress(TimeoutError):  # until the other side has had enough
                await asyncio.wait_for(reader.read(), STALL_SECONDS)
        if fault == "reset":
            writer.transport.abort()


@dataclass
class StormOutcome:
    """The outcome of a run through the storm."""

    objects: int
    wrong: list[str]
    missing: list[str]
    doubled: int
    dead: dict[str, str]
    expected_dead: dict[str, str]
    gets: int
    struck: Counter[str]
    gets_of_never: int
    given_up: int
    seconds: float

    @property
    def beyond(self) -> float:
        """GETs for each object beyond the faults, of the objects that can be read."""
        faults = sum(self.struck.values())
        gets = self.gets - self.gets_of_never - self.given_up - faults
        return gets / (self.objects - len(self.never))

    @property
    def never(self) -> list[str]:
        """Objects that never work."""
        return [key for key, kind in self.expected_dead.items() if kind != "ObjectChanged"]

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        found = [f"wrong content: {key}" for key in self.wrong]
        found += [f"neither delivered nor dead: {key}" for key in self.missing]
        if self.doubled:
            found.append(f"{self.doubled} records twice")
        if self.dead != self.expected_dead:
            found.append(f"dead letters {sorted(set(self.dead.items()) ^ set(self.expected_dead.items()))}")
        if self.beyond > 1.1:
            found.append(f"{self.beyond:.3f} GETs an object beyond the faults")
        return found


def _objects(count: int, seed: int) -> dict[str, bytes]:
    random = Random(seed)
    sizes = [0, 1, 7, 40, 300]
    return {
        f"in/{number:05}.jsonl": b"".join(
            b'{"key": "%05d", "line": %d, "text": "%s"}\n' % (number, line, b"x" * random.randrange(200))
            for line in range(random.choice(sizes))
        )
        for number in range(count)
    }


async def run_storm(
    minio: str, folder: Path, *, objects: int, share: float, never: int, kind: str, seed: int = 1
) -> StormOutcome:
    """Fill MinIO, and run the source over it through the proxy."""
    content = _objects(objects, seed)
    refill(minio, BUCKET, content)
    names = Random(seed).sample(sorted(content), never)
    broken = {name: NEVER[number % len(NEVER)] for number, name in enumerate(names)}
    # what has no bytes cannot lack any
    broken = {name: why if content[name] else "500" for name, why in broken.items()}
    sizes = {name: len(data) for name, data in content.items()}
    async with Storm(minio, share, broken, sizes, seed).serving() as storm:
        connection = S3Connection.model_validate({"endpoint": storm.url, **keys()})
        params = S3Params(pattern=f"s3://{BUCKET}/**", format=kind, read_timeout=READ_TIMEOUT)  # type: ignore[arg-type]
        sink = MemorySink()
        plan = plan_of(
            {"read": (S3Connector(params, connection), []), "write": (sink, ["read"])},
            options={"read": NodeOptions(retry=RetryOptions(attempts=6, base=0.02, cap=0.5))},
            settings=Settings(outage_limit=30.0),
        )
        began = time.monotonic()
        async with Engine(state_dir=folder) as engine:
            report = await engine.run(plan)
            letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id, limit=10_000))
        seconds = time.monotonic() - began
    assert report.ok, report.error
    dead = {letter.record["file_path"].removeprefix(BEGIN): letter.error_type for letter in letters}
    expected = {name: KINDS.get(why, "ObjectUnreadable") for name, why in broken.items()}
    expected |= dict.fromkeys(storm.changed, "ObjectChanged")
    wrong, missing, doubled = _compare(kind, sink.records, content, set(expected))
    return StormOutcome(
        objects=objects,
        wrong=wrong,
        missing=missing,
        doubled=doubled,
        dead=dead,
        expected_dead=expected,
        gets=sum(storm.gets.values()),
        struck=storm.struck,
        gets_of_never=sum(storm.gets[name] for name in broken),
        given_up=storm.given_up,
        seconds=seconds,
    )


def _compare(
    kind: str, records: list[Any], content: Mapping[str, bytes], dead: set[str]
) -> tuple[list[str], list[str], int]:
    """Objects with wrong content, objects without it, and how many records came twice."""
    if kind == "document":
        found = {record["file_path"].removeprefix(BEGIN): record["content"] for record in records}
        wrong = [key for key, text in found.items() if text.encode() != content[key]]
        missing = [key for key in content if key not in found and key not in dead]
        return wrong, missing, len(records) - len(found)
    lines = Counter((record.get("key"), record.get("line")) for record in records)
    known = {
        (row["key"], row["line"]): row
        for data in content.values()
        for row in map(json.loads, data.splitlines())
    }
    wrong = [str(one) for one in records if known.get((one.get("key"), one.get("line"))) != one]
    names = {key: f"in/{key}.jsonl" for key, _ in known}
    missing = [str(place) for place in known if place not in lines and names[place[0]] not in dead]
    return wrong, missing, sum(count - 1 for count in lines.values())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.s3_storm", description=__doc__)
    parser.add_argument("--objects", type=int, default=5000, help="how many objects (5000)")
    parser.add_argument("--share", type=float, default=0.01, help="of the GETs, for each fault (0.01)")
    parser.add_argument("--never", type=int, default=20, help="objects that never work (20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=["document", "jsonl"], default="document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        with running_minio(Path(folder)) as minio:
            outcome = asyncio.run(
                run_storm(
                    minio,
                    Path(folder) / "state",
                    objects=options.objects,
                    share=options.share,
                    never=options.never,
                    kind=options.format,
                    seed=options.seed,
                )
            )
        print(f"{outcome.objects:,} objects in {outcome.seconds:.1f} s, {outcome.gets:,} GETs")  # noqa: T201
        print(f"faults: {dict(outcome.struck)}")  # noqa: T201
        changed = sum(kind == "ObjectChanged" for kind in outcome.dead.values())
        print(f"dead letters: {len(outcome.dead)}, {changed} of them changed")  # noqa: T201
        print(f"wrong: {len(outcome.wrong)}, missing: {len(outcome.missing)}, twice: {outcome.doubled}")  # noqa: T201
        print(f"GETs an object beyond the faults: {outcome.beyond:.3f}")  # noqa: T201
        print(*outcome.problems or ["as it should be"], sep="\n")  # noqa: T201
        return 1 if outcome.problems else 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
