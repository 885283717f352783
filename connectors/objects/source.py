"""The base of object sources: listing into splits, concurrent reading, batches."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from pydantic import BaseModel

from connectors.objects.fetching import ObjectFetcher, Suspect
from connectors.objects.groups import RECORD_OVERHEAD, Group, judged, plan_groups
from connectors.objects.listed import FileRecord, ListedObject, ObjectStore
from connectors.objects.pages import RecordFormat
from connectors.objects.params import ObjectParams
from connectors.objects.record_formats import record_format
from connectors.objects.streaming import Fetched, RecordStream
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, Source
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import ComponentError, FatalError, RecordError

if TYPE_CHECKING:
    from aiostream import Stream

    from connectors.objects.csv_types import ColumnType

STREAMED_SPLIT_BYTES = 256 * 1024 * 1024
"""Listed bytes after which a split of record streams is complete."""

MEMORY_WAIT = 0.005
"""Seconds of waiting for memory after which memory is taken to limit the concurrency of groups."""

MAX_SPLIT_SECONDS = 10.0
"""Seconds of listing after which a split is passed on although it is not full."""

P = TypeVar("P", bound=ObjectParams)


class ObjectSource(Source[P]):
    """A source of objects. A subclass opens the store."""

    reserves = True
    repeatable = True
    parallel_splits = 2  # keeps connections busy at the end of a split

    def __init__(self, params: P, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._opened: tuple[ObjectStore, ObjectFetcher] | None = None
        self._inferred: dict[str, ColumnType] = {}
        self._ahead: dict[str, Fetched] = {}
        # for a stream the engine reserves page by page
        self.reserves = not params.streams

    @abstractmethod
    async def open_store(self, stack: AsyncExitStack) -> ObjectStore:
        """Open the store of the objects; `stack` closes it."""

    @property
    @abstractmethod
    def named(self) -> str:
        """Return the pattern, for messages."""

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the store."""
        if self.params.streams:
            self._inferred.clear()
            self._ahead.clear()
            record_format(self.params)  # fails if a library is missing
        if self.params.format == "xlsx":
            from connectors.objects.isolation import DocumentReader

            await stack.enter_async_context(DocumentReader())  # keeps its processes between objects
        store = await self.open_store(stack)
        self._opened = (
            store,
            ObjectFetcher(store, self.params.concurrency, self.ctx.retry, most=self.params.most_at_once),
        )
        stack.callback(setattr, self, "_opened", None)

    def _open(self) -> tuple[ObjectStore, ObjectFetcher]:
        assert self._opened is not None, "enter the connector first"
        return self._opened

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """List objects in splits of `split_objects`. A pattern without matches has no split."""
        after, number, ordinal = _behind(ctx.listed)
        types = None if ctx.listed is None else ctx.listed.manifest.get("types", {})
        async with aclosing(self._chunks(ctx, after, ordinal)) as chunks:
            async for chunk in chunks:
                if types is None:
                    types = await self._types(chunk)
                entries = [found.as_entry() for found in chunk]
                bucket = self._open()[0].prefix.removesuffix("/")
                manifest = {"bucket": bucket, "objects": entries} | ({"types": types} if types else {})
                yield Split(f"{number:06d}", manifest, first_ordinal=ordinal)
                number, ordinal = number + 1, ordinal + len(chunk)

    async def _chunks(
        self, ctx: Context, after: str, before: int
    ) -> AsyncGenerator[Sequence[ListedObject], None]:
        """Yield the objects of each split."""
        chunk: list[ListedObject] = []
        yielded_at, nbytes = anyio.current_time(), 0
        full = STREAMED_SPLIT_BYTES if self.params.streams else sys.maxsize
        async with aclosing(self._wanted(ctx, after, before)) as listing:
            async for page in listing:
                for found in page:
                    chunk.append(found)
                    nbytes += max(found.size, 0)
                    if len(chunk) == self.params.split_objects or nbytes >= full:
                        yield chunk
                        chunk, nbytes, yielded_at = [], 0, anyio.current_time()
                if chunk and anyio.current_time() - yielded_at >= MAX_SPLIT_SECONDS:
                    # if few objects match, a worker that continues must not search for these again
                    yield chunk
                    chunk, nbytes, yielded_at = [], 0, anyio.current_time()
        if chunk:
            yield chunk

    async def _types(self, objects: Sequence[ListedObject]) -> dict[str, ColumnType]:
        """Return the types of CSV columns in all objects, as far as some of them show."""
        if self.params.format != "csv" or self.params.types == "text":
            return {}
        from connectors.objects.csv_sampling import sampled_types

        return await sampled_types(*self._open(), objects, self.params, self._ahead)

    def can_list_after(self, last: Split) -> bool:
        """Return whether a listing can continue after this split: its keys must be in order."""
        keys = _keys_of(last)
        return bool(keys) and keys == sorted(keys)

    async def _wanted(
        self, ctx: Context, after: str, before: int
    ) -> AsyncGenerator[Sequence[ListedObject], None]:
        """Yield the selected objects after a key, in pages; `before` objects are listed already."""
        store, _ = self._open()
        selection, limit = self.params.selection, self.params.limit
        left = None if limit is None else limit - before
        listed, unwanted, unchanged = before, 0, 0
        if left == 0:
            return
        async with aclosing(store.pages(after=after)) as listing:
            async for page in listing:
                listed += len(page)
                selected = selection.select(page)
                wanted = (
                    await self._not_delivered(selected, ctx) if self.params.mode == "changed" else selected
                )
                unwanted += len(page) - len(selected)
                unchanged += len(selected) - len(wanted)
                if left is not None:
                    wanted = wanted[:left]
                    left -= len(wanted)
                yield wanted
                if left == 0:
                    break
        if self.params.require_match and not listed:
            raise FatalError(f"{self.named} matches nothing, and `require_match` is set")
        for name, number in (
            ("unchanged", unchanged),
            ("skipped: excluded by name, date or size", unwanted),
        ):
            if number:
                ctx.count(name, number)

    async def _not_delivered(self, page: Sequence[ListedObject], ctx: Context) -> Sequence[ListedObject]:
        delivered = await ctx.bookmarks.get(self._open()[0].scope, [found.key for found in page])
        return [found for found in page if delivered.get(found.key) != found.version]

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read a split from `position` on (the index of an object, or a position in one), in order.

        A failing object is retried alone, and becomes a dead letter if others can be read.

        Raises:
            TransientError: nothing can be read at present; everything before it was yielded.
            FatalError: nothing can be read.
        """
        store, fetcher = self._open()
        fetcher.begin()
        objects = [ListedObject.from_entry(entry) for entry in split.manifest["objects"]]
        if self.params.streams:
            records = self._stream(store, fetcher, self._format(split, ctx), ctx)
            batches = records.read(objects, position, split.first_ordinal)
        else:
            batches = self._whole(objects, int(position or 0), split.first_ordinal, ctx)
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    def _format(self, split: Split, ctx: Context) -> RecordFormat:
        if self.params.format not in ("csv", "xlsx"):
            return record_format(self.params)
        from connectors.objects.csv_sampling import TypesOfColumns

        types = TypesOfColumns(split.manifest.get("types", {}), self._inferred, ctx.count)
        return record_format(self.params, types.agree)

    def _stream(
        self, store: ObjectStore, fetcher: ObjectFetcher, records: RecordFormat, ctx: Context
    ) -> RecordStream:
        return RecordStream(
            store,
            fetcher,
            records,
            ctx,
            concurrency=self.params.concurrency,
            on_unreadable=self.params.on_unreadable,
            bookmarks=self.params.mode == "changed",
            folder_types=self.params.hive_types if self.params.hive_partitioning else None,
            sheet=self.params.sheet,
            ahead=self._ahead,
        )

    async def _whole(
        self, objects: Sequence[ListedObject], position: int, first_ordinal: int, ctx: Context
    ) -> AsyncGenerator[Batch, None]:
        """Read the objects from an index on, each as one record."""
        from aiostream import stream

        fetcher = self._open()[1]
        held: set[Group] = set()
        reading = anyio.CapacityLimiter(fetcher.limiter.groups)

        async def read(group: Group, *_: Group) -> Group:
            try:
                return await self._read_group(group)
            finally:
                reading.total_tokens = fetcher.limiter.groups
                reading.release_on_behalf_of(group)

        groups = self._reserve(objects, position, held, reading, ctx)
        results: Stream[Group] = stream.map(groups, read, ordered=True, task_limit=self.params.most_at_once)
        try:
            async with results.stream() as streamer, aclosing(judged(streamer, fetcher)) as ready:
                async for group, cleared in ready:
                    batch, error = self._batch(group, first_ordinal, ctx, cleared=cleared)
                    if batch.position > group.start:
                        held.discard(group)  # its reservation moves to the batch
                        yield batch
                    if error is not None:
                        raise error
                    if ctx.draining():
                        return
        finally:
            for group in held:
                group.reservation.release()

    async def extract(self) -> AsyncGenerator[Any, None]:
        """Read all records, in no particular order, without a pipeline. Opens the store if needed.

        Whole objects are `S3FileContent`, lines and rows mappings.

        Raises:
            RecordError: an object cannot be read; the ones before it were yielded.
            TransientError, FatalError: as `read`. Nothing is retried here.
        """
        from aiostream import stream

        async with AsyncExitStack() as stack:
            if self._opened is None:
                await stack.enter_async_context(self)
            pages = stream.flatmap(self.splits(self.ctx), self._pages, task_limit=self.parallel_splits)
            async with pages.stream() as streamer:
                async for page in streamer:
                    for record in page:
                        yield record

    async def _pages(self, split: Split, *_: Split) -> AsyncGenerator[list[Any], None]:
        from connectors.models import S3FileContent

        async with aclosing(self.read(split, None, self.ctx)) as batches:
            async for batch in batches:
                failed = dict(batch.failures)
                good = [one for index, one in enumerate(batch.records) if index not in failed]
                yield good if self.params.streams else list(map(S3FileContent.model_validate, good))
                if batch.reservation is not None:
                    batch.reservation.release()
                for error in failed.values():
                    raise error

    async def _reserve(
        self,
        objects: Sequence[ListedObject],
        position: int,
        held: set[Group],
        reading: anyio.CapacityLimiter,
        ctx: Context,
    ) -> AsyncGenerator[Group, None]:
        """Yield groups in order with their bytes reserved, concurrently as far as `reading` allows.

        Whole groups are reserved one after another. A group with its bytes needs no more memory to finish, so
        no task waits for bytes that it holds itself.
        """
        limiter = self._open()[1].limiter
        groups = plan_groups(objects, position, self.params.max_object_bytes)
        for number, (start, chosen, nbytes) in enumerate(groups, 1):
            if ctx.draining():
                return
            began = anyio.current_time()
            group = Group(start, chosen, await ctx.memory_budget.reserve(nbytes), nbytes=nbytes)
            held.add(group)
            await reading.acquire_on_behalf_of(group)
            # groups are read concurrently; if there are enough, their objects need no separate tasks, which
            # would cost a third of the reading time
            if anyio.current_time() - began < MEMORY_WAIT:
                left = -(-(len(objects) - start) // len(chosen))
                group.width = -(-limiter.limit // min(number, left))
            yield group

    async def _read_group(self, group: Group, *_further: Group) -> Group:
        fetch = self._open()[1].fetch
        outcomes = group.outcomes
        outcomes += [FatalError("not read")] * len(group.objects)
        left = iter(range(len(outcomes)))

        async def read() -> None:
            for index in left:
                outcomes[index] = await fetch(group.objects[index])

        width = min(group.width, len(outcomes))
        if width == 1:
            await read()
            return group
        async with anyio.create_task_group() as tasks:
            for _number in range(width):
                tasks.start_soon(read)
        return group

    def _batch(
        self, group: Group, first_ordinal: int, ctx: Context, *, cleared: bool
    ) -> tuple[Batch, ComponentError | None]:
        """Make a batch of the objects up to the first one to retry, and return that one's error.

        `cleared`: others can be read, so failures are the objects' own fault.
        """
        records: list[FileRecord] = []
        taken: list[ListedObject] = []
        failures: list[tuple[int, RecordError]] = []
        nbytes = seen = 0
        stopper: ComponentError | None = None
        for found, outcome in zip(group.objects, group.outcomes, strict=True):
            if isinstance(outcome, Suspect):
                outcome = outcome.as_record() if cleared else outcome.error
            if isinstance(outcome, RecordError) and self.params.on_unreadable == "stop":
                outcome = FatalError(f"{outcome} (`on_unreadable: stop`)")
            if isinstance(outcome, ComponentError) and not isinstance(outcome, RecordError):
                stopper = outcome
                break
            seen += 1
            if isinstance(outcome, RecordError):
                if self.params.on_unreadable == "skip":
                    ctx.count("skipped: unreadable")
                    continue
                failures.append((len(records), outcome))
                outcome = self._stub(found, outcome)
            else:
                nbytes += sys.getsizeof(outcome["content"])
                _count(outcome, ctx)
            records.append(outcome)
            taken.append(found)
        ctx.count("objects", len(records))
        nbytes += RECORD_OVERHEAD * len(records)
        group.reservation.resize(nbytes)
        prefix = self._open()[0].prefix
        batch = Batch(
            records,
            KeyList([f"{prefix}{found.key}@{found.version}" for found in taken], first_ordinal + group.start),
            position=group.start + seen,
            nbytes=nbytes,
            reservation=group.reservation,
        )
        batch.failures = failures
        if self.params.mode == "changed":
            batch.bookmarks = self._bookmarks(taken, {index for index, _ in failures})
        return batch, stopper

    def _bookmarks(self, taken: Sequence[ListedObject], failed: set[int]) -> list[Bookmark]:
        # an unreadable object was not delivered: it has to be read once it is smaller, restored or back
        scope = self._open()[0].scope
        return [
            Bookmark(scope, found.key, found.version)
            for index, found in enumerate(taken)
            if index not in failed
        ]

    def _stub(self, found: ListedObject, error: RecordError) -> FileRecord:
        path, uri = self._open()[0].addresses(found.key)
        return {
            "file_path": path,
            "source_uri": uri,
            "file_size": found.size,
            "etag": found.etag,
            "error": str(error),
        }


def _count(record: FileRecord, ctx: Context) -> None:
    ctx.count("bytes", int(record["file_size"] or 0))
    if record["replaced_characters"]:
        ctx.count("replaced_characters", float(record["replaced_characters"]))
    if record["encoding_guessed"]:
        ctx.count("guessed_encodings")


def _behind(last: Split | None) -> tuple[str, int, int]:
    """Return where a listing continues: the last key, and the number and first ordinal of the next split."""
    if last is None:
        return "", 0, 0
    keys = _keys_of(last)
    return keys[-1], int(last.key) + 1, last.first_ordinal + len(keys)


def _keys_of(split: Split) -> list[str]:
    objects = split.manifest.get("objects")
    assert isinstance(objects, list)
    return [str(entry[0]) for entry in objects if isinstance(entry, list)]
