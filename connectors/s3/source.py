"""The source `s3`: objects that match a wildcard pattern."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

from pydantic import BaseModel, Field, field_validator, model_validator

from connectors.objects.content import ObjectBody
from connectors.objects.decoding import decode_whole
from connectors.objects.listed import FileRecord, ListedObject
from connectors.objects.params import ObjectParams, keeps_bookmarks, listed
from connectors.objects.pattern import ObjectPattern
from connectors.objects.source import ObjectSource
from connectors.s3.client import S3Connection, open_client
from connectors.s3.ranges import ParallelRanges
from connectors.s3.reader import S3FileReader
from connectors.s3.resolver import S3WildcardResolver
from connectors.s3.streams import S3ObjectStreams
from engine.contract.claims import Claim
from engine.contract.component import Kind, component, operational
from engine.errors import FatalError

MAX_CONCURRENCY = 256


class S3Params(ObjectParams):
    """What to read."""

    pattern: str | list[str] = Field(
        description="Address with wildcards (`*`, `**`, `?`, `[…]`, `{…}`): "
        "`s3://bucket/folder/**/*.{txt,pdf}`; or a list of them, of one bucket"
    )
    read_timeout: float = operational(60.0, gt=0, description="Longest pause of the server, in seconds")

    max_concurrency: int | None = operational(
        None,
        ge=1,
        le=1024,
        description="Maximum concurrent reads if more than `concurrency` increase throughput (default: "
        "`concurrency` if set, else 256)",
    )

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str | list[str]) -> str | list[str]:
        ObjectPattern.parse_all(listed(value))
        return value

    @model_validator(mode="after")
    def _exclude(self) -> S3Params:
        self.excluding()
        return self

    @property
    def most_at_once(self) -> int:
        """Maximum concurrent reads."""
        if self.max_concurrency is not None:
            return max(self.concurrency, self.max_concurrency)
        return self.concurrency if "concurrency" in self.model_fields_set else MAX_CONCURRENCY

    def parsed(self) -> ObjectPattern:
        """The parsed pattern."""
        return ObjectPattern.parse_all(listed(self.pattern))

    def excluding(self) -> ObjectPattern | None:
        """The exclusions as a pattern of the same bucket, or None."""
        pattern = self.parsed()
        patterns = [
            one if "://" in one else f"{pattern.scheme}://{pattern.bucket}/{one}"
            for one in listed(self.exclude)
        ]
        if not patterns:
            return None
        excluded = ObjectPattern.parse_all(patterns)
        if excluded.bucket != pattern.bucket:
            raise ValueError(f"`exclude` names the bucket {excluded.bucket!r}, `pattern` {pattern.bucket!r}")
        return excluded

    @property
    def excluded(self) -> Callable[[str], bool] | None:
        """Return the test for excluded keys, or None if nothing is excluded."""
        pattern = self.excluding()
        return pattern.matches if pattern is not None else None


class S3Bucket:
    """An open bucket."""

    def __init__(
        self,
        pattern: ObjectPattern,
        server: str,
        resolver: S3WildcardResolver,
        reader: S3FileReader,
        streams: S3ObjectStreams,
        ranges: ParallelRanges | None = None,
    ) -> None:
        self._pattern = pattern
        self._streams = streams
        self._ranges = ranges
        self._resolver = resolver
        self._reader = reader
        self.scope = f"{server}/{pattern.bucket}"
        self.prefix = f"{pattern.bucket}/"

    def pages(self, *, after: str = "") -> AsyncGenerator[Sequence[ListedObject], None]:
        return self._resolver.resolve_pages(self._pattern, after=after)

    async def read(self, found: ListedObject) -> FileRecord:
        uri = self._pattern.uri_of(found.key)
        arrived = None
        if self._ranges is not None and self._ranges.apply_to(found):
            arrived = await self._ranges.read(uri, found)
        return await self._reader.read_record(
            uri, self._pattern.bucket, found.key, etag=found.etag, size=found.size, arrived=arrived
        )

    def open(
        self, found: ListedObject, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[ObjectBody]:
        return self._streams.open(self._pattern.uri_of(found.key), found, start, stop)

    async def probe(self, key: str) -> None:
        await self._reader.probe(self._pattern.bucket, key)

    def addresses(self, key: str) -> tuple[str, str]:
        return f"s3://{self._pattern.bucket}/{key}", self._pattern.uri_of(key)


def _claim(params: S3Params) -> Claim:
    pattern, excluded = params.parsed(), params.excluded

    def reads(place: str) -> bool:
        bucket, _, key = place.partition("/")
        return bucket == pattern.bucket and pattern.matches(key) and not (excluded and excluded(key))

    return Claim(pattern.uri, f"reads {', '.join(listed(params.pattern))}", reads=reads)


@component(
    Kind.SOURCE,
    "s3",
    params=S3Params,
    connection=S3Connection,
    sandbox="s3",
    extra="s3",
    bookmarks=keeps_bookmarks,
    claim=_claim,
)
class S3Connector(ObjectSource[S3Params]):
    """Reads objects of an S3 bucket that match a wildcard pattern, each as one record, or line by line.

    A record has the fields of `S3FileContent`: `file_path` (the address), `content`, `content_type`,
    `file_size` in bytes, `is_binary`, and further facts about the object and its text. Text in any usual
    charset is decoded; everything else becomes a marker and data URL. The key is `bucket/key@etag`: unchanged
    content has the same key in every run, a changed object a new one.

    The listing is stored before anything is read, and a resumed run uses it. An object that has changed or
    vanished since becomes a dead letter, so content never appears under another version's key; so does an
    object that cannot be read while others can.

    With `format: lines`, `jsonl`, `csv` or `parquet` the records are the lines or rows of the objects, read
    as streams: an object may have any size, and a run can be resumed inside it. Their keys are
    `bucket/key@etag#line`. `text` and `binary` are whole objects without a marker.

    With `mode: changed`, objects are skipped if an earlier run delivered the same ETag. Dates do not matter:
    an object that arrives late with an old date is read. An object that could not be read is tried again.
    """

    def __init__(self, params: S3Params, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._pattern = params.parsed()

    @property
    def named(self) -> str:
        """Return the pattern, for messages."""
        return self._pattern.uri

    async def open_store(self, stack: AsyncExitStack) -> S3Bucket:
        """Open the bucket; `stack` closes it."""
        connection = self.connection if isinstance(self.connection, S3Connection) else S3Connection()
        if self._pattern.scheme == "minio" and not connection.endpoint:
            raise FatalError("a minio:// pattern needs the `endpoint` of its server in the connection")
        params = self.params
        client = await stack.enter_async_context(
            open_client(
                connection,
                # one stream per concurrent split, in addition to prefetching
                connections=params.most_at_once + (self.parallel_splits if params.streams else 0),
                read_timeout=params.read_timeout,
            )
        )
        reader = S3FileReader(
            client,
            max_object_bytes=params.max_object_bytes,
            decode=partial(decode_whole, params=params),
        )
        streams = S3ObjectStreams(client, self._pattern.bucket)
        ranges = ParallelRanges(streams, self.ctx.retry, max_bytes=params.max_object_bytes)
        resolver = S3WildcardResolver(client)
        return S3Bucket(self._pattern, connection.server, resolver, reader, streams, ranges)
