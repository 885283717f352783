"""The sink `s3`: files of records in a bucket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from typing import Any

import anyio
from pydantic import Field, field_validator

from connectors.addresses import without_fields
from connectors.objects.part_files import NOTE
from connectors.objects.part_sink import PartParams, PartSink, needs_whole_run, parts_claim
from connectors.objects.partitions import is_partition
from connectors.objects.pattern import ObjectPattern, split_bucket
from connectors.s3.client import S3Client, S3Connection, open_client
from connectors.s3.errors import is_unsupported, s3_errors
from connectors.s3.listing import list_pages
from engine.contract.claims import Claim
from engine.contract.component import Kind, component, operational
from engine.errors import ComponentError, FatalError, RecordError

PART_BYTES = 8 * 1024 * 1024
"""Larger files are uploaded in parts of this size."""

CONCURRENCY = 4
PARTITIONS_AT_ONCE = 4
"""Uploads per batch: a batch with many partitions takes one request for the note and the file of each."""
ABORT_SECONDS = 10

_RIGHTS = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"

_CONTENT_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


class S3SinkParams(PartParams):
    """Where to write, and how."""

    path: str = Field(description="Address that the files are put below: `s3://bucket/orders`")
    read_timeout: float = operational(60.0, gt=0, description="Longest pause of the server, in seconds")

    @field_validator("path")
    @classmethod
    def _is_address(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        bucket, _ = split_bucket(rest)
        ObjectPattern.parse(f"{scheme}://{bucket}/x")  # checks the scheme and the bucket
        return without_fields(value)

    @property
    def bucket_and_prefix(self) -> tuple[str, str]:
        """The bucket and the key prefix."""
        bucket, prefix = split_bucket(self.path.partition("://")[2])
        prefix = prefix.strip("/")
        return bucket, f"{prefix}/" if prefix else ""


class ObjectsBelow:
    """The objects of a bucket below a prefix. An object exists once its upload is complete."""

    def __init__(self, client: S3Client, bucket: str, prefix: str, content_type: str) -> None:
        self._client: Any = client
        self._bucket = bucket
        self._prefix = prefix
        self._content_type = content_type
        self._takes_parts = True

    async def sizes(self) -> Mapping[str, int]:
        names = self._names(self._prefix)
        # without a name: the folder marker that consoles create
        return {
            name: size
            async for name, size in names
            if name.rpartition("/")[2] and ("/" not in name or is_partition(name.rpartition("/")[0]))
        }

    async def _names(self, prefix: str) -> AsyncGenerator[tuple[str, int], None]:
        async with aclosing(list_pages(self._client, self._bucket, prefix)) as pages:
            async for page in pages:
                for entry in page:
                    size = entry.get("Size")
                    yield entry["Key"].removeprefix(prefix), -1 if size is None else int(size)

    def _notes(self, token: str) -> str:
        return f"{self._prefix}_odw/{token}/"

    async def notes(self, token: str) -> Mapping[str, bytes]:
        folder = self._notes(token)
        found: dict[str, bytes] = {}
        async for name, _ in self._names(folder):
            with self._errors(f"reading {folder}{name}"):
                answer = await self._client.get_object(Bucket=self._bucket, Key=f"{folder}{name}")
                async with answer["Body"] as body:
                    found[name.removesuffix(NOTE)] = await body.read()
        return found

    async def has_note(self, token: str, name: str) -> bool:
        key = f"{self._notes(token)}{name}{NOTE}"
        return any([found == "" async for found, _ in self._names(key)])

    async def put_note(self, token: str, name: str, data: bytes) -> None:
        await self._put(f"{self._notes(token)}{name}{NOTE}", data, "application/json")

    async def put(self, token: str, name: str, data: bytes) -> None:
        key = f"{self._prefix}{name}"
        if len(data) > PART_BYTES and self._takes_parts:
            if await self._put_in_parts(key, data):
                return
            self._takes_parts = False
        await self._put(key, data, self._content_type)

    async def _put(self, key: str, data: bytes, content_type: str) -> None:
        with self._errors(f"writing {key!r}"):
            await self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type)

    async def _put_in_parts(self, key: str, data: bytes) -> bool:
        """Upload in parts; return False if the server does not support that."""
        where = {"Bucket": self._bucket, "Key": key}
        try:
            with self._errors(f"writing {key!r}"):
                begun = await self._client.create_multipart_upload(**where, ContentType=self._content_type)
        except ComponentError as error:
            if is_unsupported(error):
                return False
            raise
        upload = {**where, "UploadId": begun.get("UploadId")}
        try:
            with self._errors(f"writing {key!r}"):
                parts = await self._upload(upload, data)
                if parts:
                    await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
                    return True
        except BaseException:
            await self._abandon(key, upload)
            raise
        await self._abandon(key, upload)
        return False

    async def _abandon(self, key: str, upload: Mapping[str, Any]) -> None:
        """Remove the parts, which are billed until then."""
        with anyio.move_on_after(ABORT_SECONDS, shield=True), suppress(ComponentError):
            with self._errors(f"abandoning {key!r}"):
                await self._client.abort_multipart_upload(**upload)

    async def _upload(self, upload: Mapping[str, Any], data: bytes) -> list[dict[str, Any]]:
        """Upload the parts and return their list for completion; none if the server returns no ETags."""
        view = memoryview(data)
        parts: list[dict[str, Any]] = []
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            piece = bytes(view[start : start + PART_BYTES])
            answer = await self._client.upload_part(**upload, PartNumber=number, Body=piece)
            if not answer.get("ETag"):
                return []
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return parts

    async def delete(self, name: str) -> None:
        await self._delete(f"{self._prefix}{name}")

    async def _delete(self, key: str) -> None:
        with suppress(RecordError), s3_errors(self._bucket, f"removing {key!r}", needs=_RIGHTS):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def delete_notes(self, token: str) -> None:
        folder = self._notes(token)
        names = [name async for name, _ in self._names(folder)]
        for name in names:
            await self._delete(f"{folder}{name}")

    @contextmanager
    def _errors(self, what: str) -> Generator[None, None, None]:
        try:
            with s3_errors(self._bucket, what, needs=_RIGHTS):
                yield
        except RecordError as error:
            if error.kind != "ObjectVanished":
                raise FatalError(str(error)) from error
            raise FatalError(
                f"bucket {self._bucket!r}, {what}: not found (404): check the address and the connection's "
                "endpoint"
            ) from error


def _claim(params: S3SinkParams) -> Claim:
    return parts_claim("/".join(params.bucket_and_prefix), params.path, params)


@component(
    Kind.SINK,
    "s3",
    params=S3SinkParams,
    connection=S3Connection,
    sandbox="s3",
    extra="s3",
    whole_run=needs_whole_run,
    claim=_claim,
)
class S3Sink(PartSink[S3SinkParams]):
    """Write records to objects in a bucket: JSON lines, CSV or Parquet.

    A new object is started after `rotate_records`, `rotate_bytes` (of records in memory) or `rotate_seconds`.
    Objects appear only when complete, and large ones are uploaded in parts. A batch that is written again
    replaces its object, and a resumed run writes no record twice: until the run completes, the keys of
    written records are kept below `_odw/`.

    A new run adds objects, replaces those of earlier runs when it completes (`mode: replace`), or refuses to
    start if objects exist (`mode: error`).
    """

    partitions_at_once = PARTITIONS_AT_ONCE

    @property
    def concurrency(self) -> int:
        """Number of concurrent batches."""
        return CONCURRENCY

    @property
    def named(self) -> str:
        """The place of the objects, for messages."""
        return self.params.path

    async def open_store(self, stack: AsyncExitStack) -> ObjectsBelow:
        """Open the bucket; `stack` closes its client."""
        connection = self.connection if isinstance(self.connection, S3Connection) else S3Connection()
        if self.params.path.startswith("minio://") and not connection.endpoint:
            raise FatalError("a minio:// address needs the `endpoint` of its server in the connection")
        client = await stack.enter_async_context(
            open_client(
                connection,
                connections=CONCURRENCY * PARTITIONS_AT_ONCE,
                read_timeout=self.params.read_timeout,
            )
        )
        bucket, prefix = self.params.bucket_and_prefix
        return ObjectsBelow(client, bucket, prefix, _CONTENT_TYPES[self.params.format])
