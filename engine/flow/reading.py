"""A segment that starts with a source: read its splits and process each batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Protocol

import anyio

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.clock import Clock
from engine.contract.component import Context, Source
from engine.contract.types import JsonValue
from engine.contract.unplanned import escaped
from engine.errors import NodeFailedError, RecordError, TransientError
from engine.fault_injection import reached
from engine.flow.chain import DeadLetterQueue, chain, drop_unrouted
from engine.flow.edge import Pacer
from engine.flow.errors import as_run_error, unwrap_group
from engine.flow.outlet import Outlet
from engine.flow.paging import PageReader, RecordPager, page_reader
from engine.flow.retry import check_outage
from engine.flow.segment import Runtime, Segment
from engine.flow.skip_dead import split_dead
from engine.flow.stats import Waiting
from engine.flow.steps import Next
from engine.flow.stopping import Stop
from engine.flow.tapping import Seen
from engine.state.records import SplitRecord

CLOSE_WITHIN = 10.0  # seconds for a source to clean up

Track = Callable[[SplitRecord], SplitTracker]
Announce = Callable[[SplitTracker, int], Awaitable[None]]


class Splits(Protocol):
    """The rest of a source to read, with the position to start at."""

    @property
    def total(self) -> int:
        """Return an upper bound of the number of splits."""

    @property
    def exhausted(self) -> bool:
        """Whether `next` will return None."""

    async def next(self) -> SplitRecord | None:
        """Return the next split; None at the end."""

    async def skip_done(self) -> None:
        """Count splits finished before, and return no further splits."""


class SourceTask:
    """Reads one source until its end or a drain.

    Args:
        splits: the splits to read.
        track: opens the acks of a split.
        announce: stores that more records of a split may be read, before they are read.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        splits: Splits,
        track: Track,
        announce: Announce,
        outlet: Outlet | None,
        clock: Clock,
        dead_letters: DeadLetterQueue,
        stop: Stop | None = None,
    ) -> None:
        component = segment.head.component
        assert isinstance(component, Source)
        self._source: Source[Any] = component
        self._runtime: Runtime = segment.head
        self._ctx: Context = component.ctx
        self.splits = splits
        self._readers = max(1, min(component.parallel_splits, splits.total))
        self._track = track
        self._announce = announce
        self._outlet = outlet
        self._clock = clock
        self._dead_letters = dead_letters
        self._stop = stop or Stop()
        send = outlet.send if outlet is not None else None
        suffix = segment.head.node.options.key_suffix
        self._unwatched: Next = chain(segment.nodes[1:], send, clock, dead_letters) or drop_unrouted(
            segment.head.stats
        )
        self._onward = self._unwatched
        segment.head.stats.taps.add_place(self)
        self._suffix = suffix
        self._draining = False
        self._split_readers: set[SplitReader] = set()
        self._unread = 0

    def watch(self, seen: Seen | None) -> None:
        """See `Watchable`."""
        if seen is None:
            self._onward = self._unwatched
            return

        def run(batch: Batch) -> Awaitable[None]:
            seen(batch.records)
            return self._unwatched(batch)

        self._onward = run

    @property
    def finished(self) -> bool:
        """Whether every split was read to its end."""
        return self._unread == 0 and self.splits.exhausted

    def drain(self) -> None:
        """Stop at the next batch boundary; cancel a read that waits for I/O."""
        self._draining = True
        for split_reader in self._split_readers:
            if split_reader.reading:
                split_reader.given_up = True
                split_reader.scope.cancel()

    async def run(self) -> None:
        """Read all splits."""
        self._runtime.stats.workers = self._readers
        try:
            if self._readers == 1:
                await self._read_splits()
            else:
                async with anyio.create_task_group() as group:
                    for _ in range(self._readers):
                        group.start_soon(self._read_splits)
        finally:
            if self._outlet is not None:
                self._outlet.close()

    async def _read_splits(self) -> None:
        while not self._draining and (record := await self.splits.next()) is not None:
            self._unread += 1
            try:
                await self._read_split(record, self._track(record))
            except Exception as error:
                if not self._stop.take(error):
                    raise
                self._draining = True
                return

    async def _read_split(self, record: SplitRecord, tracker: SplitTracker) -> None:
        """Read one split; after a transient failure, continue after the last batch that was read."""
        split_reader = SplitReader(tracker.position)
        self._split_readers.add(split_reader)
        try:
            while not self._draining:
                reader = page_reader(self._source, record.split, split_reader.position, self._ctx)
                async with _running_alongside(reader, self._runtime.stats.name):
                    ended = await self._attempt(reader, tracker, split_reader)
                if isinstance(ended, TransientError):
                    if split_reader.given_up:  # a drain came at the moment of the failure
                        return
                    await self._wait(ended, split_reader)
                    continue
                if ended:
                    tracker.finish_reading()
                    self._unread -= 1
                return
        finally:
            self._split_readers.discard(split_reader)

    async def _attempt(
        self, reader: PageReader, tracker: SplitTracker, split_reader: SplitReader
    ) -> bool | TransientError:
        """Call `_drive` and return a transient failure, which a task group would wrap."""
        try:
            return await self._drive(reader, tracker, split_reader)
        except TransientError as error:
            name = self._runtime.stats.name
            if split_reader.began and split_reader.position is None:
                raise NodeFailedError(
                    name, f"its batches have no position to resume from: {error}"
                ) from error
            if split_reader.began and not self._source.resumable:
                raise NodeFailedError(name, f"it cannot resume from the middle: {error}") from error
            return error

    async def _drive(self, reader: PageReader, tracker: SplitTracker, split_reader: SplitReader) -> bool:
        """Process batches until the split ends (True) or the run drains (False)."""
        pacer = Pacer(self._outlet.edges if self._outlet is not None else ())
        runtime = self._runtime
        stats, health = runtime.stats, runtime.health
        # one scope for the whole loop; a scope per batch would cost as much as several records
        with anyio.CancelScope() as split_reader.scope:
            started = perf_counter()
            while not self._draining:
                split_reader.reading, blocked = True, stats.blocked
                try:
                    batch = await reader.next()
                except TransientError:
                    raise
                except BaseException as error:
                    failure = unwrap_group(escaped(error))
                    if isinstance(failure, TransientError):
                        raise failure from error
                    raise as_run_error(stats.name, failure) from failure
                finally:
                    split_reader.reading = False
                    stats.busy += perf_counter() - started - (stats.blocked - blocked)
                if split_reader.given_up:
                    # the batch came at the moment of the drain; in this cancelled scope no wait is possible,
                    # so the batch counts as unread
                    if batch is not None and batch.reservation is not None:
                        batch.reservation.release()
                    return False
                if batch is None:
                    # a source may have ended because of the drain; if it really was the end, a resume finds
                    # nothing more
                    return not self._draining
                split_reader.attempt, split_reader.began = 0, True
                health.succeeded()
                split_reader.position = batch.position
                reached("batch_read")
                count = len(batch.records)
                if tracker.begun + count > tracker.announced:
                    await self._announce(tracker, count)
                work = self._see_through(batch, tracker)
                # its bytes are released during processing, so do not keep it alive here
                batch = None
                if work is not None:
                    await work
                started = perf_counter()
                if pacer.due(started):
                    await pacer.pause()
                    started = perf_counter()
        return False

    async def _wait(self, error: TransientError, split_reader: SplitReader) -> None:
        policy, stats = self._runtime.policy, self._runtime.stats
        split_reader.attempt += 1
        lasted = check_outage("read nothing", stats, policy, self._runtime.health, self._clock, error)
        stats.retries += 1
        waiting = Waiting.RETRY if split_reader.attempt < policy.attempts else Waiting.OUTAGE
        try:
            with stats.waits(waiting, str(error)[:200]), anyio.CancelScope() as split_reader.scope:
                split_reader.reading = True
                await self._clock.sleep(policy.delay(split_reader.attempt, error.retry_after, lasted))
        finally:
            split_reader.reading = False

    def _see_through(self, batch: Batch, tracker: SplitTracker) -> Awaitable[None] | None:
        """Open the ack of a batch and process it; return the remaining work, if any."""
        stats = self._runtime.stats
        count = len(batch.records)
        ack = tracker.begin(count, batch.position, batch.reservation, batch.bookmarks)
        batch.reservation = None
        batch.origins = ((ack, count),)
        stats.batches += 1
        stats.records_in += count
        if not ack.pending:
            return None  # it is empty, or an earlier attempt has settled it
        if batch.failures or self._runtime.dead_keys:
            return self._without_the_dead(batch)
        stats.records_out += count
        return self._onward(batch.with_suffix(self._suffix) if self._suffix else batch)

    async def _without_the_dead(self, batch: Batch) -> None:
        stats, died = self._runtime.stats, self._runtime.dead_keys
        if batch.failures:
            batch = await self._dead_letter_failed(batch)
        if died:
            batch = await split_dead(batch, stats, died, self._dead_letters.resettle)
        stats.records_out += len(batch.records)
        if batch.records:
            await self._onward(batch.with_suffix(self._suffix) if self._suffix else batch)

    async def _dead_letter_failed(self, batch: Batch) -> Batch:
        failures = [(index, error) for index, error in batch.failures if isinstance(error, RecordError)]
        failures.sort(key=lambda failure: failure[0])
        self._runtime.stats.dead += len(failures)
        await self._dead_letters.put(self._runtime.stats, batch, failures, 1)
        failed = {index for index, _ in failures}
        return batch.take([index for index in range(len(batch)) if index not in failed])


class SplitReader:
    """A split being read: `reading` is true while it only waits for its source.

    `given_up`: its scope was cancelled during such a wait.
    """

    __slots__ = ("attempt", "began", "given_up", "position", "reading", "scope")

    def __init__(self, position: JsonValue) -> None:
        self.position = position
        self.attempt = 0
        self.began = False
        self.reading = False
        self.given_up = False
        self.scope = anyio.CancelScope()


@asynccontextmanager
async def _running_alongside(reader: PageReader, node: str) -> AsyncGenerator[None, None]:
    """Run a reader's background task for the block, and always close the reader."""
    try:
        if isinstance(reader, RecordPager):
            async with anyio.create_task_group() as group:
                group.start_soon(reader.run)
                try:
                    yield
                finally:
                    group.cancel_scope.cancel()
        else:
            yield
    finally:
        with anyio.move_on_after(CLOSE_WITHIN, shield=True):
            try:
                await reader.aclose()
            except BaseException as error:
                raise as_run_error(node, escaped(error)) from error
