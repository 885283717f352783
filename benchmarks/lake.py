"""A MinIO server with objects, and several ways to read them."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.engine_commands import free_port
from benchmarks.model import Work

BUCKET = "lake"
USER, PASSWORD = "benchmark", "benchmark-secret"
AT_ONCE = 32
CPU_PER_THOUSAND = "cpu"


def minio_program() -> str | None:
    """The `minio` program, if there is one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odw-engine" / "tools"
    return os.environ.get("ODW_MINIO") or shutil.which("minio") or shutil.which("minio", path=cache)


def needs_minio() -> str | None:
    """Why S3 cannot be measured here, or None."""
    return None if minio_program() else "there is no `minio` program; .ci/run builds one"


def needs_obstore() -> str | None:
    """Why obstore cannot be measured here, or None."""
    if find_spec("obstore") is None:
        return "obstore is not installed: pip install 'odw-engine[benchmarks]'"
    return needs_minio()


def needs_s5cmd() -> str | None:
    """Why s5cmd cannot be measured here, or None."""
    return needs_minio() if shutil.which("s5cmd") else "there is no `s5cmd` on PATH"


def _started(admitted: int | None) -> str:
    """Start a server, which ends with this process, and return its address."""
    folder = tempfile.mkdtemp(prefix="odw-lake-")
    address = f"127.0.0.1:{free_port()}"
    secrets = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off"}
    if admitted is not None:
        secrets |= {"MINIO_API_REQUESTS_MAX": str(admitted), "MINIO_API_REQUESTS_DEADLINE": "10ms"}
    process = subprocess.Popen(
        [str(minio_program()), "server", "--quiet", "--address", address, folder],
        env={**os.environ, **secrets},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return f"http://{address}"


@dataclass
class Lake:
    """A number of objects of one size; the server starts on first use.

    `admitted` are the requests that it handles at once; it refuses more with 429.
    """

    objects: int
    size: int
    admitted: int | None = None
    url: str = ""
    keys: list[str] = field(default_factory=list)

    async def ready(self) -> None:
        """Start the server and fill it, once."""
        if self.url:
            return
        url = await asyncio.to_thread(_started, self.admitted)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError):
                await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/minio/health/ready").close())
                break
            await asyncio.sleep(0.1)
        self.keys = [key_of(number) for number in range(self.objects)]
        async with sdk_client(url) as client:
            await client.create_bucket(Bucket=BUCKET)
            body = os.urandom(self.size)
            await in_turn(
                self.keys,
                lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=body),
                at_once=self.admitted or AT_ONCE,
            )
        self.url = url


def sdk_client(url: str) -> Any:
    """A typical hand-written aiobotocore client."""
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from aiobotocore.session import get_session  # type: ignore[import-untyped]

    return get_session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=USER,
        aws_secret_access_key=PASSWORD,
        config=AioConfig(max_pool_connections=AT_ONCE, s3={"addressing_style": "path"}),
    )


def key_of(number: int) -> str:
    """The key of an object."""
    return f"in/{number:06}.bin"


async def in_turn(keys: list[str], work: Callable[[str], Awaitable[Any]], *, at_once: int = AT_ONCE) -> None:
    """Process every key with limited concurrency."""
    left = iter(keys)

    async def worker() -> None:
        for key in left:
            await work(key)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def measured(lake: Lake, work: Callable[[str], Awaitable[int]]) -> Work:
    """Read every object; report the processor time of this process per 1,000 objects."""
    total = 0

    async def one(key: str) -> None:
        nonlocal total
        found = await work(key)
        total += found

    began = time.process_time()
    await in_turn(lake.keys, one)
    return _work(lake, total, time.process_time() - began)


def _work(lake: Lake, total: int, seconds: float) -> Work:
    if total != lake.objects * lake.size:
        raise ValueError(f"{total:,} bytes of {lake.objects * lake.size:,}")
    return Work(lake.objects, f"{total} bytes", {CPU_PER_THOUSAND: seconds / lake.objects * 1000})


async def by_hand(lake: Lake) -> Work:
    """Workers over aiobotocore."""
    await lake.ready()
    async with sdk_client(lake.url) as client:

        async def read(key: str) -> int:
            answer = await client.get_object(Bucket=BUCKET, Key=key)
            async with answer["Body"] as body:
                return len(await body.read())

        return await measured(lake, read)


async def bare_lean(lake: Lake) -> Work:
    """A signed GET on an aiohttp session, and nothing else."""
    import aiohttp
    from yarl import URL

    from connectors.s3.signing import Signer, encode_key

    await lake.ready()
    signer, host = Signer(USER, PASSWORD, "us-east-1"), lake.url.removeprefix("http://")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_ONCE), auto_decompress=False
    ) as session:

        async def read(key: str) -> int:
            path = f"/{BUCKET}/{encode_key(key)}"
            headers = signer.headers(host, path, {}, {}, datetime.now(UTC))
            async with session.get(URL(lake.url + path, encoded=True), headers=headers) as answer:
                return len(await answer.read())

        return await measured(lake, read)


async def reader(lake: Lake, requests: str) -> Work:
    """The GETs of the source `s3`: conditions, versions and lengths checked."""
    from connectors.objects.listed import ListedObject
    from connectors.s3 import S3Connection, open_client
    from connectors.s3.streams import S3ObjectStreams

    await lake.ready()
    made = S3Connection.model_validate(
        {"endpoint": lake.url, "access_key": USER, "secret_key": PASSWORD, "requests": requests}
    )
    async with open_client(made, connections=AT_ONCE) as client:
        streams = S3ObjectStreams(client, BUCKET)
        answer = await client.head_object(Bucket=BUCKET, Key=lake.keys[0])
        etag = answer["ETag"].strip('"')

        async def read(key: str) -> int:
            total = 0
            async with streams.open(key, ListedObject(key, etag, lake.size), 0, None) as body:
                while piece := await body.read():
                    total += len(piece)
            return total

        return await measured(lake, read)


async def pipeline(lake: Lake, concurrency: int | None = None) -> Work:
    """The source `s3` as a pipeline reads it, from the listing to records with their content in base64."""
    from connectors.s3 import S3Connection, S3Connector, S3Params
    from engine.contract.clock import SystemClock
    from engine.contract.component import Context, Kind
    from engine.flow.retry import ComponentRetry, RetryPolicy
    from engine.flow.stats import NodeStats

    await lake.ready()
    made = S3Connection.model_validate({"endpoint": lake.url, "access_key": USER, "secret_key": PASSWORD})
    params: dict[str, Any] = {"pattern": f"s3://{BUCKET}/**", "format": "binary"}
    # the engine reads two splits at once, and here one is read after the other
    params["split_objects"] = 10_000
    if concurrency is not None:
        params["concurrency"] = concurrency
    source = S3Connector(S3Params.model_validate(params), made)
    stats = NodeStats("read", Kind.SOURCE, "s3")
    source.ctx = Context(retry=ComponentRetry(RetryPolicy(), stats, SystemClock()))
    total = 0
    async with source:
        began = time.process_time()
        async for split in source.splits(source.ctx):
            async with aclosing(source.read(split, None, source.ctx)) as batches:
                async for batch in batches:
                    total += sum(record["file_size"] for record in batch.records)
                    if batch.reservation is not None:
                        batch.reservation.release()
        seconds = time.process_time() - began
    return _work(lake, total, seconds)


async def with_obstore(lake: Lake) -> Work:
    """obstore, from Python."""
    await lake.ready()
    command = [sys.executable, "-m", "benchmarks.obstore_reads", lake.url, str(lake.objects)]
    # what counts is printed before it may abort at its exit
    done = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=False)
    found = json.loads(done.stdout)
    return _work(lake, found["bytes"], found["cpu"])


async def with_s5cmd(lake: Lake) -> Work:
    """s5cmd copies into files of this machine: the whole process, its start and its listing included."""
    await lake.ready()
    with tempfile.TemporaryDirectory(prefix="odw-s5cmd-") as folder:
        command = ["s5cmd", "--log", "error", "--endpoint-url", lake.url, "--numworkers", str(AT_ONCE)]
        command += ["cp", f"s3://{BUCKET}/in/*", f"{folder}/"]
        keys = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": "us-east-1"}
        began = _children_seconds()
        await asyncio.to_thread(subprocess.run, command, env={**os.environ, **keys}, check=True)
        seconds = _children_seconds() - began
        total = _bytes_in(folder)
    return _work(lake, total, seconds)


def _bytes_in(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def _children_seconds() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
