"""The source `s3`: files that a wildcard pattern stands for."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import anyio
from pydantic import BaseModel, Field, field_validator

from connectors.objects.decoding import known_charset
from connectors.objects.pattern import ObjectPattern
from connectors.s3.client import S3Connection, open_client
from connectors.s3.fetching import ObjectFetcher, Suspect
from connectors.s3.groups import Group, judged
from connectors.s3.planning import RECORD_OVERHEAD, plan_groups
from connectors.s3.reader import DEFAULT_MAX_OBJECT_BYTES, FileRecord, S3FileReader
from connectors.s3.resolver import S3Object, S3WildcardResolver
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, Kind, Params, Source, component, operational
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import ComponentError, FatalError, RecordError

if TYPE_CHECKING:
    from aiostream import Stream

    from connectors.models import S3FileContent

__all__ = ["S3Connector", "S3Params"]


LONGEST_SPLIT = 10.0
"""Seconds of listing after which a split is handed on although it is not full."""


class S3Params(Params):
    """What to read."""

    pattern: str = Field(
        description="Address with wildcards (`*`, `**`, `?`, `[…]`, `{…}`): `s3://bucket/folder/**/*.{txt,pdf}`"
    )
    mode: Literal["all", "changed"] = Field(
        default="all",
        description="`changed`: leave out objects whose content an earlier run of the pipeline has delivered",
    )
    max_object_bytes: int = Field(
        default=DEFAULT_MAX_OBJECT_BYTES, gt=0, description="Larger objects become dead letters, unread"
    )
    charset: str | None = Field(
        default=None,
        description="Charset of text that is not UTF-8 and declares none (`windows-1252`); default: guessed",
    )
    concurrency: int = operational(32, ge=1, le=256, description="Objects read at once")
    split_objects: int = operational(
        1000, ge=1, le=10_000, description="Objects in one split, the unit that is resumed and distributed"
    )
    read_timeout: float = operational(60.0, gt=0, description="Longest pause of the server, in seconds")

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        ObjectPattern.parse(value)
        return value

    @field_validator("charset")
    @classmethod
    def _charset(cls, value: str | None) -> str | None:
        if value is not None and known_charset(value) is None:
            raise ValueError(f"{value!r} is no charset that is known here")
        return value


def _keeps_bookmarks(params: S3Params) -> bool:
    return params.mode == "changed"


@component(
    Kind.SOURCE, "s3", params=S3Params, connection=S3Connection, sandbox="s3", bookmarks=_keeps_bookmarks
)
class S3Connector(Source[S3Params]):
    """Files in an S3 bucket that a wildcard pattern stands for, each as one record.

    A record has the fields of `S3FileContent`: `file_path` (the address, in the scheme of the pattern),
    `content`, `content_type`, `file_size` in bytes and `is_binary`. Text in any usual charset is text;
    everything else is a marker and a data URL. The key is `bucket/key@etag`: the same content has the same
    key in every run, a changed object a new one.

    The listing is stored before anything is read, and a resumed run goes by it. An object that changed or
    vanished since becomes a dead letter and never another version's content under the old key.

    With `mode: changed`, objects are left out whose ETag is the one that an earlier run has delivered. Dates
    play no part: what arrives late with an old date is read. An object that could not be read is tried again.
    """

    reserves = True
    repeatable = True
    parallel_splits = 2  # so that the end of one split does not leave its connections idle

    def __init__(self, params: S3Params, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._pattern = ObjectPattern.parse(params.pattern)
        server = connection.server if isinstance(connection, S3Connection) else "aws"
        self._scope = f"{server}/{self._pattern.bucket}"
        self._stack = AsyncExitStack()
        self._resolver: S3WildcardResolver | None = None
        self._fetcher: ObjectFetcher | None = None

    async def __aenter__(self) -> Self:
        connection = self.connection if isinstance(self.connection, S3Connection) else S3Connection()
        if self._pattern.scheme == "minio" and not connection.endpoint:
            raise FatalError("a minio:// pattern needs the `endpoint` of its server in the connection")
        client = await self._stack.enter_async_context(
            open_client(
                connection, connections=self.params.concurrency, read_timeout=self.params.read_timeout
            )
        )
        self._resolver = S3WildcardResolver(client)
        reader = S3FileReader(
            client, max_object_bytes=self.params.max_object_bytes, charset=self.params.charset
        )
        self._fetcher = ObjectFetcher(
            reader, self._resolver, self._pattern, self.params.concurrency, self.ctx.retry
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resolver = self._fetcher = None
        await self._stack.aclose()

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """The listing in parts of `split_objects`. A pattern that stands for nothing has no split."""
        assert self._resolver is not None, "enter the connector first"
        chunk: list[S3Object] = []
        after, number, ordinal = _behind(ctx.listed)
        unchanged, yielded_at = 0, anyio.current_time()
        async with aclosing(self._resolver.resolve_pages(self._pattern, after=after)) as listing:
            async for page in listing:
                wanted = await self._not_delivered(page, ctx) if self.params.mode == "changed" else page
                unchanged += len(page) - len(wanted)
                for found in wanted:
                    chunk.append(found)
                    if len(chunk) == self.params.split_objects:
                        yield self._split(number, ordinal, chunk)
                        number, ordinal, yielded_at = number + 1, ordinal + len(chunk), anyio.current_time()
                        chunk = []
                if chunk and anyio.current_time() - yielded_at >= LONGEST_SPLIT:
                    # few objects of many match: a worker that goes on must not look for these again
                    yield self._split(number, ordinal, chunk)
                    number, ordinal, yielded_at = number + 1, ordinal + len(chunk), anyio.current_time()
                    chunk = []
        if chunk:
            yield self._split(number, ordinal, chunk)
        if unchanged:
            ctx.count("unchanged", unchanged)

    def lists_behind(self, last: Split) -> bool:
        """True unless the keys of that split are out of order: then nobody knows what comes behind it."""
        keys = _keys_of(last)
        return bool(keys) and keys == sorted(keys)

    async def _not_delivered(self, page: Sequence[S3Object], ctx: Context) -> Sequence[S3Object]:
        delivered = await ctx.bookmarks.get(self._scope, [found.key for found in page])
        return [found for found in page if delivered.get(found.key) != found.version]

    def _split(self, number: int, ordinal: int, objects: Sequence[S3Object]) -> Split:
        entries = [found.as_entry() for found in objects]
        manifest = {"bucket": self._pattern.bucket, "objects": entries}
        return Split(f"{number:06d}", manifest, first_ordinal=ordinal)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """The objects of a split from the one with index `position`, in order, read concurrently.

        An object that fails alone is retried alone, and becomes a dead letter when others get through.

        Raises:
            TransientError: nothing can be had at present; everything before it was yielded.
            FatalError: the bucket cannot be read.
        """
        from aiostream import stream

        assert self._fetcher is not None, "enter the connector first"
        self._fetcher.begin()
        objects = [S3Object.from_entry(entry) for entry in split.manifest["objects"]]
        held: set[Group] = set()
        groups = self._reserve(objects, int(position or 0), held, ctx)
        results: Stream[Group] = stream.map(
            groups, self._read_group, ordered=True, task_limit=self.params.concurrency
        )
        try:
            async with results.stream() as streamer, aclosing(judged(streamer, self._fetcher)) as ready:
                async for group, cleared in ready:
                    batch, error = self._batch(group, split.first_ordinal, ctx, cleared=cleared)
                    if len(batch):
                        held.discard(group)  # its reservation goes with the batch
                        yield batch
                    if error is not None:
                        raise error
                    if ctx.draining():
                        return
        finally:
            for group in held:
                group.reservation.release()

    async def extract(self) -> AsyncGenerator[S3FileContent, None]:
        """All files, in no particular order, without a pipeline. Opens the connection if it is not open.

        Raises:
            RecordError: an object that cannot be read; the ones before it were yielded.
            TransientError, FatalError: as `read`. Nothing is retried here.
        """
        from aiostream import stream

        async with AsyncExitStack() as stack:
            if self._fetcher is None:
                await stack.enter_async_context(self)
            pages = stream.flatmap(self.splits(self.ctx), self._pages, task_limit=self.parallel_splits)
            async with pages.stream() as streamer:
                async for page in streamer:
                    for record in page:
                        yield record

    async def _pages(self, split: Split, *_: Split) -> AsyncGenerator[list[S3FileContent], None]:
        from connectors.models import S3FileContent

        async with aclosing(self.read(split, None, self.ctx)) as batches:
            async for batch in batches:
                failed = dict(batch.failures)
                good = [one for index, one in enumerate(batch.records) if index not in failed]
                yield [S3FileContent.model_validate(record) for record in good]
                if batch.reservation is not None:
                    batch.reservation.release()
                for error in failed.values():
                    raise error

    async def _reserve(
        self, objects: Sequence[S3Object], position: int, held: set[Group], ctx: Context
    ) -> AsyncGenerator[Group, None]:
        """Groups in order, each with its bytes reserved.

        One after the other, and whole groups: a group that has its bytes needs no more to be finished and
        handed on, so whoever waits for bytes never waits for itself.
        """
        for start, chosen, nbytes in plan_groups(objects, position, self.params.max_object_bytes):
            if ctx.draining():
                return
            group = Group(start, chosen, await ctx.memory_budget.reserve(nbytes))
            held.add(group)
            yield group

    async def _read_group(self, group: Group, *_: Group) -> Group:
        assert self._fetcher is not None, "enter the connector first"
        fetch = self._fetcher.fetch
        outcomes = group.outcomes
        outcomes += [FatalError("not read") for _ in group.objects]

        async def read(index: int, found: S3Object) -> None:
            outcomes[index] = await fetch(found)

        async with anyio.create_task_group() as tasks:
            for index, found in enumerate(group.objects):
                tasks.start_soon(read, index, found)
        return group

    def _batch(
        self, group: Group, first_ordinal: int, ctx: Context, *, cleared: bool
    ) -> tuple[Batch, ComponentError | None]:
        """The objects up to the first that has to be tried again, and that one's error.

        `cleared`: others get through, so that what failed is to blame itself.
        """
        records: list[FileRecord] = []
        failures: list[tuple[int, RecordError]] = []
        nbytes = 0
        stopper: ComponentError | None = None
        for found, outcome in zip(group.objects, group.outcomes, strict=True):
            if isinstance(outcome, Suspect):
                outcome = outcome.as_record() if cleared else outcome.error
            if isinstance(outcome, RecordError):
                failures.append((len(records), outcome))
                outcome = {
                    "file_path": self._pattern.uri_of(found.key),
                    "file_size": found.size,
                    "etag": found.etag,
                    "error": str(outcome),
                }
            elif isinstance(outcome, ComponentError):
                stopper = outcome
                break
            else:
                nbytes += sys.getsizeof(outcome["content"])
                ctx.count("bytes", float(outcome["file_size"]))
            records.append(outcome)
        taken = group.objects[: len(records)]
        nbytes += RECORD_OVERHEAD * len(records)
        ctx.count("objects", len(records))
        group.reservation.resize(nbytes)
        batch = Batch(
            records,
            KeyList(
                [f"{self._pattern.bucket}/{found.key}@{found.version}" for found in taken],
                first_ordinal + group.start,
            ),
            position=group.start + len(records),
            nbytes=nbytes,
            reservation=group.reservation,
        )
        batch.failures = failures
        if self.params.mode == "changed":
            # what could not be read was not delivered: once it is smaller, restored or back, it has to come
            failed = {index for index, _ in failures}
            batch.bookmarks = [
                Bookmark(self._scope, found.key, found.version)
                for index, found in enumerate(taken)
                if index not in failed
            ]
        return batch, stopper


def _behind(last: Split | None) -> tuple[str, int, int]:
    """Where a listing goes on: the last key, and the number and first ordinal of the next split."""
    if last is None:
        return "", 0, 0
    keys = _keys_of(last)
    return keys[-1], int(last.key) + 1, last.first_ordinal + len(keys)


def _keys_of(split: Split) -> list[str]:
    objects = split.manifest.get("objects")
    assert isinstance(objects, list)
    return [str(entry[0]) for entry in objects if isinstance(entry, list)]
