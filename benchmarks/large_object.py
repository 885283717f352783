"""Read one object of any size as JSON lines, from a stub of S3 that generates its bytes on the fly.

    python -m benchmarks.large_object 5000000000            # from its beginning
    python -m benchmarks.large_object 5000000000 --resume   # from its middle, as a resumed run does

Prints the records, their bytes and the peak memory of the reader as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.engine_commands import free_port
from benchmarks.machine import ROOT
from benchmarks.model import Command, Completed, Launch, Work

LINE = b'{"n":%15d,"text":"' + b"x" * 92 + b'"}\n'
LINE_BYTES = len(LINE % 0)
LINES_AT_ONCE = 2_000
_RANGE = re.compile(r"range: bytes=(\d+)-", re.IGNORECASE)


async def answer(lines: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer HEAD and GET of the one object, also of a range that begins with a line."""
    size = lines * LINE_BYTES
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            found = _RANGE.search(head)
            start = int(found[1]) if found else 0
            status = (
                f"206 Partial Content\r\nContent-Range: bytes {start}-{size - 1}/{size}"
                if found
                else "200 OK"
            )
            writer.write(
                f'HTTP/1.1 {status}\r\nContent-Length: {size - start}\r\nETag: "large"\r\n\r\n'.encode()
            )
            if not head.startswith("HEAD"):
                first = start // LINE_BYTES
                for begin in range(first, lines, LINES_AT_ONCE):
                    writer.write(
                        b"".join([LINE % n for n in range(begin, min(begin + LINES_AT_ONCE, lines))])
                    )
                    await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(port: int, lines: int) -> None:
    """Serve the object until the process is ended."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(lines, reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


@asynccontextmanager
async def served(lines: int) -> AsyncGenerator[str, None]:
    """Start a server in another process and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.large_object", str(lines), "--serve", str(port)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def read(size: int, *, resume: bool) -> dict[str, int]:
    """Read an object of about this many bytes, from its beginning or its middle."""
    from connectors.objects.pages import RecordPlace
    from connectors.objects.streaming import StreamPosition
    from connectors.s3 import S3Connection, S3Connector, S3Params
    from engine.contract.component import Context

    lines = size // LINE_BYTES
    first = lines // 2 if resume else 0
    place = StreamPosition(0, RecordPlace(first * LINE_BYTES, first), 0).to_json() if resume else None
    records, expected = 0, first
    async with served(lines) as url:
        connection = S3Connection.model_validate(
            {"endpoint": url, "access_key": "key", "secret_key": "secret"}
        )
        source = S3Connector(S3Params(pattern="s3://lake/large.jsonl", format="jsonl"), connection)
        source.ctx = Context()
        async with source:
            async for split in source.splits(source.ctx):
                async with aclosing(source.read(split, place, source.ctx)) as batches:
                    async for batch in batches:
                        for record in batch.records:
                            if record["n"] != expected:
                                raise ValueError(f"record {record['n']:,} came instead of {expected:,}")
                            expected += 1
                        records += len(batch.records)
    if expected != lines:
        raise ValueError(f"{expected:,} of {lines:,} records came")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"records": records, "bytes": records * LINE_BYTES, "peak_rss": peak}


def reading(size: int, *, resume: bool = False) -> Command:
    """The same as an arm of a benchmark."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        def work(done: Completed) -> Work:
            found = json.loads(done.stdout)
            return Work(found["records"], "every record in its order", {"peak_rss": found["peak_rss"]})

        argv = [sys.executable, "-m", "benchmarks.large_object", str(size), *(["--resume"] if resume else [])]
        yield Launch(argv=argv, work=work, cwd=ROOT)

    return prepare


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_object", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("size", type=int, help="bytes of the object")
    parser.add_argument("--resume", action="store_true", help="begin in its middle")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.size))
    else:
        print(json.dumps(asyncio.run(read(options.size, resume=options.resume))))
