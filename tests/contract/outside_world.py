"""The real services for tests of components, each in its own thread.

What runs here is not in the event loop of a test, so a task or a generator that a test finds there is the
component's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

import boto3
import httpx
from anyio.from_thread import BlockingPortal
from moto.server import ThreadedMotoServer
from starlette.requests import Request as HttpRequest

from connectors.models import INGEST_MODELS
from engine.sandbox.llm.app import LlmStandIn
from engine.service.server import running_service, serving_app
from tests.servers.clickhouse import ClickHouse

BUCKET = "contract"
S3_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "hush-hush", "region_name": "us-east-1"}


@dataclass
class World:
    """Where a component can go: a folder, the standard output, and the addresses of what it needs.

    `printed` gives all that has been written to the standard output so far; `stdin` is the file
    behind the standard input; `kept` are sinks that keep their records to themselves.
    """

    folder: Path
    printed: Callable[[], bytes]
    stdin: BinaryIO
    postgres: str = ""
    clickhouse: ClickHouse | None = None
    http: str = ""
    api: Api | None = None
    s3: str = ""
    llm: str = ""
    ingest: str = ""
    kept: list[Any] = field(default_factory=list)

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def stored(self, prefix: str) -> dict[str, bytes]:
        """The objects of the bucket below a prefix, by the rest of their keys."""
        client = boto3.client("s3", endpoint_url=self.s3, **S3_KEYS)
        try:
            answer = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            names = [entry["Key"] for entry in answer.get("Contents", ())]
            return {
                name.removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
                for name in names
            }
        finally:
            client.close()

    def feed(self, content: bytes) -> dict[str, Any]:
        """Put this on the standard input; a component that reads it needs no parameters."""
        self.stdin.seek(0)
        self.stdin.truncate()
        self.stdin.write(content)
        self.stdin.flush()
        self.stdin.seek(0)
        return {}

    def load(self, model: str, rows: list[dict[str, Any]]) -> None:
        """Post rows to the ingest service."""
        httpx.post(f"{self.ingest}/ingest/{model}", json=rows).raise_for_status()

    def rows(self, api: str) -> list[dict[str, Any]]:
        """What the ingest service shows."""
        answer = httpx.get(f"{self.ingest}/consumption/{api}", params={"limit": "10000"})
        items: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        return items


@contextmanager
def lake() -> Iterator[str]:
    """An S3 server; `fill` sets its content."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def fill(address: str, objects: dict[str, bytes]) -> None:
    """Empty the server and put these objects into its bucket."""
    httpx.post(f"{address}/moto-api/reset").raise_for_status()
    client = boto3.client("s3", endpoint_url=address, **S3_KEYS)
    client.create_bucket(Bucket=BUCKET)
    for key, body in objects.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    client.close()


@contextmanager
def beside(portal: BlockingPortal, needs: str, folder: Path) -> Iterator[str]:
    """The address of a model endpoint ("llm") or an ingest service, in the portal's thread."""
    if needs == "llm":
        with portal.wrap_async_context_manager(serving_app(LlmStandIn().app)) as url:
            yield url
    else:
        service = running_service(folder / "service", models=INGEST_MODELS)
        with portal.wrap_async_context_manager(service) as running:
            yield running.url


class Api:
    """An HTTP API over a list: `GET /letters?offset=&limit=`, `POST /letters`, which refuses the id `bad`."""

    def __init__(self) -> None:
        self.letters = [{"id": number, "name": f"n{number}"} for number in range(40)]
        self.posted: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await HttpRequest(scope, receive).body()
        status, answer = 200, b"{}"
        if scope["method"] == "GET":
            asked = dict(parse_qsl(scope["query_string"].decode()))
            first = int(asked["offset"])
            page = self.letters[first : first + int(asked["limit"])]
            answer = json.dumps({"data": {"items": page}}).encode()
        else:
            given = json.loads(body)
            given = given if isinstance(given, list) else [given]
            if any(one["id"] == "bad" for one in given):
                status, answer = 422, b'{"error": "the id is bad"}'
            else:
                self.posted += [one["id"] for one in given]
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
