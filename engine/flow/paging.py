"""Read a source batch by batch, reserving memory before each read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Protocol

import anyio

from engine.contract.batch import Batch
from engine.contract.callables import generator_of, misuse, type_shown
from engine.contract.component import Context, Source
from engine.contract.keys import KeyList, KeyRange, Keys
from engine.contract.records import first_non_records, non_records
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record, Reservation
from engine.contract.unplanned import escaped
from engine.flow.sizing import RunningEstimate, estimate_batch, estimate_record

PAGE_RECORDS = 512
PAGE_BYTES = 1024 * 1024
FIRST_GUESS = 64 * 1024
STRIDE = 8  # one of this many single records is measured
LIST_STRIDE = 64  # records taken from a list at once
_END = object()


class PageReader(Protocol):
    """Reads one split."""

    async def next(self) -> Batch | None:
        """Read the next batch, or None at the end."""

    async def aclose(self) -> None: ...


def page_reader(source: Source, split: Split, position: JsonValue, ctx: Context) -> PageReader:  # type: ignore[type-arg]
    """Return a reader for a source that yields batches or records."""
    if type(source).read is not Source.read:
        return _BatchReader(source, split, position, ctx)
    return RecordPager(source, split, position, ctx)


class _BatchReader:
    """For sources that override `read`."""

    def __init__(self, source: Source, split: Split, position: JsonValue, ctx: Context) -> None:  # type: ignore[type-arg]
        self._batches: AsyncGenerator[object, None] = generator_of(source.read, split, position, ctx)
        self._read = source.read
        self._reserves = source.reserves
        self._ctx = ctx
        self._sizes = RunningEstimate()
        self._expected = FIRST_GUESS

    async def next(self) -> Batch | None:
        if self._reserves:
            return await self._read_next()
        held = await self._ctx.memory_budget.reserve(self._expected)
        try:
            batch = await self._read_next()
        except BaseException:
            held.release()
            raise
        if batch is None:
            held.release()
            return None
        if not batch.nbytes:
            batch.nbytes = self._sizes.measure(batch.records)
        held.resize(batch.nbytes)
        batch.reservation = held
        self._expected = max(batch.nbytes, 1)
        return batch

    async def _read_next(self) -> Batch | None:
        """Read a batch in which values that are not records are marked as failed."""
        batch = await anext(self._batches, _END)
        if batch is _END:
            return None
        if not isinstance(batch, Batch):
            what = f"yielded {type_shown(batch)}: yield `engine.Batch`, or define `extract` instead"
            raise misuse(self._read, "source", what)
        if len(batch.keys) != len(batch.records):
            what = f"yielded a batch of {len(batch.records)} records with {len(batch.keys)} keys"
            raise misuse(self._read, "source", what)
        if wrong := first_non_records(batch.records, self._read):
            batch.failures = list((dict(wrong) | dict(batch.failures)).items())
        return batch

    async def aclose(self) -> None:
        await self._batches.aclose()


class RecordPager:
    """Groups the records of sources with only `extract` into pages.

    A page is passed on as soon as the source would wait, so a slow source is not delayed to fill a page, and
    a fast one is cut by count and by the bytes reserved for the page. Records are read only while such a
    reservation is held; one record may be held beyond it.
    """

    def __init__(self, source: Source, split: Split, position: JsonValue, ctx: Context) -> None:  # type: ignore[type-arg]
        self._source = source
        self._ctx = ctx
        self._ordinal = int(position or 0)
        # a source that is not repeatable has nothing to skip: its next records are new
        self._skip = self._ordinal if source.repeatable else 0
        # two sources of a run, or of two pipelines that feed one table, must not share keys
        places = (ctx.pipeline, ctx.node) if source.repeatable else (ctx.seed, ctx.pipeline, ctx.node)
        self._prefix = ":".join(place for place in places if place) + "/"
        self._keyed = type(source).key is not Source.key
        self._function = getattr(source, "function", None)  # of a source made from a function
        self._expected = FIRST_GUESS
        self._page: list[Record] = []
        self._nbytes = 0
        self._look_at = 0
        self._open = False
        self._awaited = False
        self._permit = anyio.Event()
        self._ready = anyio.Event()
        self._error: Exception | None = None
        self._ended = False

    async def run(self) -> None:
        """Read the source in a task concurrent with the calls of `next`."""
        try:
            await self._permit.wait()
            async with aclosing(generator_of(self._source.extract)) as items:
                async for item in items:
                    if isinstance(item, list):
                        await self._add_list(item)
                    elif self._skip:
                        self._skip -= 1
                    else:
                        await self._add(item)
                    item = None  # do not keep delivered records alive here
                    if self._awaited and self._page:
                        self._ready.set()
        except BaseException as error:  # noqa: BLE001 - it crosses to the task that calls `next`, which raises it
            self._error = escaped(error)
        finally:
            self._ended = True
            self._ready.set()

    async def _add(self, record: Record) -> None:
        page = self._page
        if not self._open or len(page) >= PAGE_RECORDS or self._nbytes >= self._expected:
            await self._hand_over()
            page = self._page
        if len(page) == self._look_at:
            self._nbytes += estimate_record(record) * (STRIDE if page else 1)
            self._look_at = len(page) + (STRIDE if page else 1)
        page.append(record)

    async def _add_list(self, records: list[Record]) -> None:
        start = min(self._skip, len(records))
        self._skip -= start
        while start < len(records):
            if not self._open or len(self._page) >= PAGE_RECORDS or self._nbytes >= self._expected:
                await self._hand_over()
            part = records[start : start + min(LIST_STRIDE, PAGE_RECORDS - len(self._page))]
            nbytes = estimate_batch(part)
            if nbytes > self._expected - self._nbytes:
                # as many as fit, at least one
                fitting = len(part) * (self._expected - self._nbytes) // nbytes
                part = part[: max(1, fitting)]
                nbytes = estimate_batch(part)
            self._page += part
            self._nbytes += nbytes
            self._look_at = len(self._page)
            start += len(part)

    async def _hand_over(self) -> None:
        self._permit = anyio.Event()
        self._ready.set()
        await self._permit.wait()

    async def next(self) -> Batch | None:
        if self._ended and not self._page:
            self._raise()
            return None
        held = await self._ctx.memory_budget.reserve(self._expected)
        try:
            if not self._page and not self._ended:
                self._ready = anyio.Event()
                self._open = self._awaited = True
                self._permit.set()
                await self._ready.wait()
        except BaseException:
            held.release()
            raise
        finally:
            self._open = self._awaited = False
        if not self._page:
            held.release()
            self._raise()
            return None
        return self._take(held)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _take(self, held: Reservation) -> Batch:
        records, self._page = self._page, []
        nbytes, self._nbytes, self._look_at = self._nbytes, 0, 0
        start, self._ordinal = self._ordinal, self._ordinal + len(records)
        if len(records) <= STRIDE:
            nbytes = estimate_batch(records)
        failures = (
            first_non_records(records, self._source.extract)
            if self._function is None
            else non_records(records, self._function)
        )
        wrong = {place for place, _ in failures}
        batch = Batch(records, self._keys(records, start, wrong), position=self._ordinal, nbytes=nbytes)
        batch.failures = failures
        held.resize(nbytes)
        batch.reservation = held
        self._expected = min(PAGE_BYTES, max(2 * nbytes, FIRST_GUESS))
        return batch

    def _keys(self, records: list[Record], start: int, wrong: Collection[int]) -> Keys:
        if not self._keyed:
            return KeyRange(self._prefix, start, start + len(records))
        key = self._source.key
        made = [
            key(record, start + place) if place not in wrong else None for place, record in enumerate(records)
        ]
        return KeyList(
            [f"{self._prefix}{start + i}" if one is None else str(one) for i, one in enumerate(made)],
            start,
            counted=True,
        )

    async def aclose(self) -> None:
        """Do nothing: the generator belongs to `run`."""
