"""Read the objects of a split as streams of records.

Small objects are prefetched concurrently, as whole bodies; larger ones are streamed one after another. Either
way the records come in the order of the listing, each page with the position after it: `[object, at, before,
ordinal, encoding, depth]`, where `ordinal` counts the records before the object; the last two may be absent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from connectors.objects.content import ObjectBody, OpenBody, StoredBody
from connectors.objects.csv_types import ColumnType
from connectors.objects.fetching import ObjectFetcher, Suspect, own_failure
from connectors.objects.listed import ListedObject, ObjectRefusedError, ObjectStore
from connectors.objects.pages import ObjectReader, PlaceKeys, RecordFormat, RecordPage, RecordPlace
from connectors.objects.partitions import folder_columns
from connectors.objects.resuming import ResumingBodies, ServerAwayError
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context
from engine.contract.keys import KeyList
from engine.errors import ComponentError, FatalError, RecordError, TransientError

if TYPE_CHECKING:
    from aiostream import Stream

AHEAD_BYTES = 512 * 1024
"""Maximum size of prefetched objects, in bytes."""

AHEAD_OBJECTS = 16

Fetched: TypeAlias = OpenBody | ComponentError | Suspect
"""How to open an object, or why it cannot be read."""


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A position in a split."""

    index: int = 0
    place: RecordPlace = field(default_factory=RecordPlace)
    ordinal: int = 0

    @classmethod
    def of(cls, position: Any) -> StreamPosition:
        """Parse the position of a batch, None at the beginning."""
        if position is None:
            return cls()
        index, at, before, ordinal, *rest = position
        return cls(int(index), RecordPlace(int(at), int(before), *rest), int(ordinal))

    def to_json(self) -> list[int | str]:
        """Return the position for a batch."""
        place = self.place
        numbers: list[int | str] = [self.index, place.at, place.before, self.ordinal]
        rest = [place.encoding, place.depth] if place.depth else [place.encoding] if place.encoding else []
        return [*numbers, *rest]


async def fetch_small(
    store: ObjectStore, fetcher: ObjectFetcher, found: ListedObject, least: int = 1
) -> Fetched:
    """Fetch an object's body in up to the allowed attempts (at least `least`)."""

    async def whole(found: ListedObject) -> OpenBody:
        pieces: list[bytes] = []
        async with store.open(found) as body:
            while piece := await body.read():
                pieces.append(piece)
        data = b"".join(pieces)

        @asynccontextmanager
        async def open_stored(start: int, stop: int | None) -> AsyncGenerator[ObjectBody, None]:
            yield StoredBody(data[start:stop], body.content_type, len(data), body.content_encoding)

        return open_stored

    return await fetcher.attempt(found, whole, least)


class RecordStream:
    """Reads splits of one source.

    Args:
        on_unreadable: what to do with an object that cannot be read while others can.
        bookmarks: create a bookmark for each object that was read.
        folder_types: types of the columns that folders express; None to read no columns from folders.
        sheet: the sheet that the pipeline names, part of the keys: a workbook's sheets may be merged.
        ahead: small objects that were fetched already, by key; each is taken once.
    """

    def __init__(
        self,
        store: ObjectStore,
        fetcher: ObjectFetcher,
        format: RecordFormat,  # noqa: A002 - what it is called in the pipeline's file
        ctx: Context,
        *,
        concurrency: int,
        on_unreadable: str,
        bookmarks: bool,
        folder_types: Mapping[str, ColumnType] | None = None,
        sheet: str | int | None = None,
        ahead: dict[str, Fetched] | None = None,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._format = format
        self._ctx = ctx
        self._ahead = min(concurrency, AHEAD_OBJECTS)
        self._on_unreadable = on_unreadable
        self._bookmarks = bookmarks
        self._folder_types = folder_types
        self._sheet = "" if sheet is None else f"{sheet}!"
        self._fetched = {} if ahead is None else ahead

    async def read(
        self, objects: Sequence[ListedObject], position: Any, first_ordinal: int
    ) -> AsyncGenerator[Batch, None]:
        """Read the records of a split from a position on.

        Raises:
            TransientError: nothing can be read at present; everything before it was yielded.
            FatalError: nothing can be read.
        """
        from aiostream import stream

        at = StreamPosition.of(position)
        indices = range(at.index, len(objects))

        async def fetch(index: int, *_: int) -> Fetched:
            ready = self._fetched.pop(objects[index].key, None)
            return ready or await self._fetch(objects[index])

        bodies: Stream[Any] = stream.map(
            stream.iterate(indices),
            fetch,
            ordered=True,
            task_limit=self._ahead,
        )
        async with bodies.stream() as arrived:
            index = at.index
            async for fetched in arrived:
                found = objects[index]
                if isinstance(fetched, Suspect) and self._fetcher.is_doubtful(fetched):
                    unlucky = self._fetcher.is_unlucky(fetched)
                    if not unlucky and not await self._others_read(found, fetched):
                        raise fetched.error
                    fetched = await self._fetcher.again(fetched, partial(self._fetch, found))
                async with aclosing(self._object(found, fetched, at, first_ordinal)) as batches:
                    async for batch in batches:
                        at = StreamPosition.of(batch.position)
                        yield batch
                        if self._ctx.draining():
                            return
                index += 1

    async def _fetch(self, found: ListedObject, least: int = 1) -> Fetched:
        """Fetch a small object's body in `least` attempts or more, or return how to open a large one."""
        if not 0 <= found.size <= AHEAD_BYTES:
            return ResumingBodies(self._store, self._fetcher, found, self._ctx.retry).open
        return await fetch_small(self._store, self._fetcher, found, least)

    async def _object(
        self,
        found: ListedObject,
        fetched: Fetched,
        start: StreamPosition,
        first_ordinal: int,
    ) -> AsyncGenerator[Batch, None]:
        """Yield the batches of one object; the last one has the position after it."""
        failure: ComponentError | Suspect | None = None
        at, last, ordinal = start, None, first_ordinal + start.ordinal
        if callable(fetched):
            pages = self._pages(found, fetched, start.place)
            async with aclosing(pages):
                try:
                    async for page in pages:
                        if last is not None:
                            yield self._batch(found, last, at, ordinal)
                        last, at = page, StreamPosition(start.index, page.end, start.ordinal)
                except ComponentError as error:
                    failure = error
        else:
            failure = fetched
        if failure is not None:
            if last is not None:
                yield self._batch(found, last, at, ordinal)
            yield await self._lost(found, failure, at, ordinal)
            return
        behind = self._behind(at)
        last = last or RecordPage([], range(0), at.place)
        batch = self._batch(found, last, behind, ordinal)
        if self._bookmarks:
            batch.bookmarks = [Bookmark(self._store.scope, found.key, found.version)]
        self._ctx.count("objects")
        self._ctx.count("bytes", max(found.size, 0))
        if last.guessed:
            self._ctx.count("guessed_encodings")
        yield batch

    @staticmethod
    def _behind(at: StreamPosition) -> StreamPosition:
        """Return the position of the next object."""
        return StreamPosition(at.index + 1, RecordPlace(), at.ordinal + at.place.before + 1)

    async def _pages(
        self, found: ListedObject, open_body: OpenBody, place: RecordPlace
    ) -> AsyncGenerator[RecordPage, None]:
        path, _ = self._store.addresses(found.key)
        types = self._folder_types
        columns = folder_columns(found.key, types) if types is not None else {}
        for name in (types or {}).keys() - columns:
            self._ctx.count(f"note: some folders have no {name!r}, which `hive_types` names")
        pages = self._format.pages(ObjectReader(found.key, path, found.size, open_body), place)
        async with aclosing(pages):
            async for page in pages:
                if columns:
                    failed = {index for index, _ in page.failures}
                    for index, record in enumerate(page.records):
                        if index not in failed:
                            record.update(columns)
                yield page

    async def _lost(
        self, found: ListedObject, failure: ComponentError | Suspect, at: StreamPosition, ordinal: int
    ) -> Batch:
        """Return the failed record for an object, or the rest of one. Raises if nothing else can be read."""
        error = await self._own_failure(found, failure)
        if self._on_unreadable == "stop":
            raise FatalError(f"{error} (`on_unreadable: stop`)")
        behind = self._behind(at).to_json()
        if self._on_unreadable == "skip":
            self._ctx.count("skipped: unreadable")
            return Batch([], KeyList([]), position=behind)
        path, uri = self._store.addresses(found.key)
        stub = {
            "file_path": path, "source_uri": uri, "file_size": found.size, "etag": found.etag,
            "records_before": at.place.before, "error": str(error),
        }  # fmt: skip
        key = f"{self._store.prefix}{found.key}@{found.version}"
        lost = Batch([stub], KeyList([key], ordinal + at.place.before), position=behind)
        lost.failures = [(0, error)]
        return lost

    async def _own_failure(self, found: ListedObject, failure: ComponentError | Suspect) -> RecordError:
        if isinstance(failure, RecordError):
            return failure
        if isinstance(failure, Suspect):
            if not failure.exhausted or not await self._others_read(found, failure):
                raise failure.error
            return failure.as_record()
        if isinstance(failure, ServerAwayError) or not isinstance(
            failure, TransientError | ObjectRefusedError
        ):
            raise failure
        if not await self._fetcher.others_get_through({found.key}):
            raise failure
        return own_failure(failure, self._ctx.retry.attempts if self._ctx.retry is not None else 1)

    async def _others_read(self, found: ListedObject, suspect: Suspect) -> bool:
        return self._fetcher.cleared([suspect]) or await self._fetcher.others_get_through({found.key})

    def _batch(self, found: ListedObject, page: RecordPage, end: StreamPosition, ordinal: int) -> Batch:
        prefix = f"{self._store.prefix}{found.key}@{found.version}#{self._sheet}"
        keys = PlaceKeys(prefix, page.numbers, ordinal)
        batch = Batch(page.records, keys, position=end.to_json(), nbytes=page.nbytes)
        batch.failures = page.failures
        if page.replaced:
            self._ctx.count("replaced_characters", page.replaced)
        return batch
