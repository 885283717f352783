"""Reading a source batch by batch, every batch paid for from the byte budget before it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import anyio

from engine.batch import Batch, JsonValue, Record, Releasable, Split
from engine.component import Context, Source
from engine.flow.sizing import estimate_batch, estimate_record
from engine.keys import KeyList, KeyRange, Keys

__all__ = ["PageReader", "RecordPager", "page_reader"]

PAGE_RECORDS = 512
PAGE_BYTES = 1024 * 1024
FIRST_GUESS = 64 * 1024


class PageReader(Protocol):
    """Reads one split."""

    async def next(self) -> Batch | None:
        """The next batch, or None at the end."""
        ...

    async def aclose(self) -> None: ...


def page_reader(source: Source, split: Split, position: JsonValue, ctx: Context) -> PageReader:  # type: ignore[type-arg]
    """A reader for this source, whether it makes batches itself or only yields records."""
    if type(source).read is not Source.read:
        return _BatchReader(source, split, position, ctx)
    return RecordPager(source, split, position, ctx)


class _BatchReader:
    """For sources that override `read`."""

    def __init__(self, source: Source, split: Split, position: JsonValue, ctx: Context) -> None:  # type: ignore[type-arg]
        self._batches: AsyncGenerator[Batch, None] = source.read(split, position, ctx)
        self._reserves = source.reserves
        self._ctx = ctx
        self._expected = FIRST_GUESS

    async def next(self) -> Batch | None:
        if self._reserves:
            return await anext(self._batches, None)
        held = await self._ctx.allowance.reserve(self._expected)
        try:
            batch = await anext(self._batches, None)
        except BaseException:
            held.release()
            raise
        if batch is None:
            held.release()
            return None
        _charge(batch, held)
        self._expected = max(batch.nbytes, 1)
        return batch

    async def aclose(self) -> None:
        await self._batches.aclose()


class RecordPager:
    """For sources that only have `extract`: makes pages of the records that come without waiting.

    A page leaves as soon as the source would wait, so a slow source is not held up to fill a page, and a
    fast one is cut by count and by bytes. Records are read only while a reservation for a page is held.
    """

    def __init__(self, source: Source, split: Split, position: JsonValue, ctx: Context) -> None:  # type: ignore[type-arg]
        self._source = source
        self._ctx = ctx
        self._ordinal = int(position or 0)
        self._skip = self._ordinal
        self._prefix = f"{ctx.node}/" if source.repeatable else f"{ctx.seed}/"
        self._keyed = type(source).key is not Source.key
        self._expected = FIRST_GUESS
        self._page: list[Record] = []
        self._limit = 1
        self._mean = 0.0
        self._open = False
        self._awaited = False
        self._permit = anyio.Event()
        self._ready = anyio.Event()
        self._error: BaseException | None = None
        self._ended = False

    async def run(self) -> None:
        """Reads the source; the owner runs this as a task beside the calls of `next`."""
        generator = self._source.extract()
        try:
            await self._permit.wait()
            async for item in generator:
                records = item if isinstance(item, list) else (item,)
                for record in records:
                    if self._skip:
                        self._skip -= 1
                        continue
                    if not self._open or len(self._page) >= self._limit:
                        await self._hand_over()
                    self._page.append(record)
                    if len(self._page) >= self._limit:
                        self._measure(record)
                if self._awaited:
                    self._ready.set()
        except Exception as error:  # noqa: BLE001 - it crosses to the task that calls `next`, which raises it
            self._error = error
        finally:
            self._ended = True
            self._ready.set()
            await generator.aclose()

    def _measure(self, record: Record) -> None:
        """Adapt the page's limit to how large the records are."""
        size = estimate_record(record)
        self._mean = size if not self._mean else self._mean * 0.75 + size * 0.25
        fitting = int(PAGE_BYTES / max(self._mean, size, 1))
        self._limit = max(1, min(PAGE_RECORDS, fitting, self._limit * 2))

    async def _hand_over(self) -> None:
        self._permit = anyio.Event()
        self._ready.set()
        await self._permit.wait()

    async def next(self) -> Batch | None:
        if self._ended and not self._page:
            self._raise()
            return None
        held = await self._ctx.allowance.reserve(self._expected)
        try:
            self._open = True
            self._permit.set()
            if not self._page and not self._ended:
                self._ready = anyio.Event()
                self._awaited = True
                await self._ready.wait()
                self._awaited = False
        except BaseException:
            held.release()
            raise
        if not self._page:
            held.release()
            self._raise()
            return None
        return self._take(held)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _take(self, held: Releasable) -> Batch:
        records, self._page, self._open = self._page, [], False
        start, self._ordinal = self._ordinal, self._ordinal + len(records)
        batch = Batch(records, self._keys(records, start), position=self._ordinal)
        _charge(batch, held)
        self._expected = max(batch.nbytes, 1)
        return batch

    def _keys(self, records: list[Record], start: int) -> Keys:
        if not self._keyed:
            return KeyRange(self._prefix, start, start + len(records))
        key = self._source.key
        made = [key(record, ordinal) for ordinal, record in enumerate(records, start)]
        return KeyList(
            [f"{self._prefix}{start + i}" if one is None else one for i, one in enumerate(made)], start
        )

    async def aclose(self) -> None:
        """Nothing to close here: the generator belongs to `run`."""


def _charge(batch: Batch, held: Releasable) -> None:
    if not batch.nbytes:
        batch.nbytes = estimate_batch(batch.records)
    held.resize(batch.nbytes)
    batch.reservation = held
