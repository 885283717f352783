"""Keep the ledger of one run up to date: watermarks with their tallies, committed periodically.

Bookmarks are committed here too, in the transaction of the positions (`engine.state.ledger`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from math import inf
from typing import Any

import anyio

from engine.contract.acks import SplitTracker, Tally
from engine.contract.callables import generator_of, misuse, type_shown
from engine.contract.component import Context, Source
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import RunNotFoundError
from engine.fault_injection import reached
from engine.state.records import Acked, Progress, SplitRecord
from engine.state.store import StateStore

COMMIT_EVERY = 0.1
LOOK_EVERY = 2.0
MIN_READ_AHEAD, MAX_READ_AHEAD = 1_000, 50_000
"""Records of a split that may be read before more are announced; a resume marks them as replays."""
PAGE_SPLITS = 20
PAGE_SECONDS = 5.0
"""Listed splits are stored when there are this many, or after this time."""


class Ledger:
    """The progress of one run, collected in memory and committed in one transaction every 100 ms.

    Args:
        shared: other processes work on other parts of the run.
        before_commit: stores what must not be lost once the positions are committed.
    """

    def __init__(
        self,
        store: StateStore,
        run_id: str,
        epoch: int = 0,
        *,
        shared: bool = False,
        before_commit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._before_commit = before_commit
        self._run_id = run_id
        self._epoch = epoch
        self._trackers: list[tuple[str, SplitTracker]] = []
        self._dirty: dict[int, tuple[str, SplitTracker]] = {}
        self._settled = Tally()
        self._shared = shared
        # kept when shared, to distinguish the progress of others
        self._committed: dict[tuple[str, str], Tally] = {}
        self._elsewhere = Tally()
        self._committing = anyio.Lock()
        self._closing = False

    async def list_in_pages(
        self,
        node: str,
        source: Source[Any],
        ctx: Context,
        on_page: Callable[[int], None] = lambda listed: None,
        *,
        page_splits: int = 0,
    ) -> int:
        """Store the splits of a source as they are listed, holding at most one page.

        An unfinished listing means that nothing was read. Its stored splits are deleted, unless the source
        can continue after them, since inputs that have come or gone since would be in two splits, or in none.
        A complete listing is not repeated.

        Returns:
            The number of splits of the source.
        """
        _, complete = await self._store.splits(self._run_id, node, limit=0)
        if not complete:
            await self._list_rest(node, source, ctx, on_page, page_splits or PAGE_SPLITS)
        return (await self._store.count_splits(self._run_id, node))[1]

    async def _list_rest(
        self, node: str, source: Source[Any], ctx: Context, on_page: Callable[[int], None], page_splits: int
    ) -> None:
        page: list[Split] = []
        listed = await self._splits_to_keep(node, source, ctx)
        stored_at = anyio.current_time()
        async with aclosing(generator_of(source.splits, ctx)) as splits:
            async for split in splits:
                if not isinstance(split, Split):
                    what = f"yielded {type_shown(split)}: yield `engine.Split`"
                    raise misuse(source.splits, "source", what)
                page.append(split)
                if len(page) == page_splits or anyio.current_time() - stored_at >= PAGE_SECONDS:
                    await self._add_page(node, page, complete=False, restart=not listed)
                    listed += len(page)
                    on_page(listed)
                    page, stored_at = [], anyio.current_time()
        reached("splits_listed")
        await self._add_page(node, page, complete=True, restart=not listed)
        reached("splits_stored")

    async def _splits_to_keep(self, node: str, source: Source[Any], ctx: Context) -> int:
        """Return how many splits of an unfinished listing are kept for a source that can continue."""
        _, listed = await self._store.count_splits(self._run_id, node)
        ctx.listed = None
        if not listed:
            return 0
        (last,), _ = await self._store.splits(self._run_id, node, start=listed - 1, limit=1)
        if not source.can_list_after(last.split):
            return 0
        ctx.listed = last.split
        return listed

    async def _add_page(self, node: str, page: Sequence[Split], *, complete: bool, restart: bool) -> None:
        await self._store.add_splits(
            self._run_id, node, page, complete=complete, restart=restart, epoch=self._epoch
        )

    def track(self, node: str, record: SplitRecord, *, replay: bool) -> SplitTracker:
        """Track the acks of a split to be read from its committed position.

        Args:
            replay: the whole split may have been delivered before, not only the part that an earlier attempt
                may have read.
        """
        self._note(node, record.split.key, record.tally)

        def note(changed: SplitTracker) -> None:
            changed.dirty = True
            self._dirty[id(changed)] = (node, changed)

        tracker = SplitTracker(
            record.split.key,
            record.position,
            replay=replay or record.read_limit is None,
            read_limit=record.read_limit or 0,
            covered=record.tally,
            acked_out_of_order=[(one.start, one.end, one.tally) for one in record.acked],
            on_progress=note,
        )
        self._trackers.append((node, tracker))
        return tracker

    def skip(self, record: SplitRecord) -> None:
        """Skip a split that an earlier attempt has finished."""
        self._note(record.node, record.split.key, record.tally)
        self._settled.add(record.tally)

    def live(self) -> Tally:
        """Return the tally of everything settled so far, and the number in flight."""
        total = Tally()
        total.add(self._settled)
        for _, tracker in self._trackers:
            total.add(tracker.live())
        return total

    def unsettled(self) -> Tally:
        """Return what this process has done for batches that are not complete."""
        total = Tally()
        for _, tracker in self._trackers:
            total.add(tracker.unsettled())
        return total

    def live_of_run(self) -> Tally:
        """Return the tally including the last known progress of other processes."""
        total = self.live()
        total.add(self._elsewhere)
        return total

    async def refresh_other_workers(self) -> None:
        """Refresh the progress of other processes; does nothing for a run that is not shared."""
        if not self._shared:
            return
        # otherwise our own commit would count as another process's before it is noted
        async with self._committing:
            others = await self._store.counts(self._run_id)
            for own in self._committed.values():
                others.read -= own.read
                others.forked -= own.forked
                others.dead -= own.dead
        self._elsewhere = Tally(read=others.read, forked=others.forked, dead=others.dead)

    def _note(self, node: str, split_key: str, tally: Tally) -> None:
        if self._shared:
            self._committed[node, split_key] = replace(tally)

    @property
    def in_flight(self) -> int:
        """The number of records read or created and not yet settled."""
        return sum(tracker.in_flight for _, tracker in self._trackers)

    async def announce(self, tracker: SplitTracker, count: int) -> None:
        """Commit that `count` more records of a split may be read."""
        tracker.read_limit = max(tracker.read_limit, tracker.begun + count)
        tracker.notify()
        await self.commit()

    async def commit(self) -> None:
        """Write the changes since the last commit."""
        async with self._committing:
            if self._dirty:
                await self._commit()

    async def close(self) -> None:
        """Commit the last changes, and that only begun records were read."""
        self._closing = True
        for _, tracker in self._trackers:
            if tracker.begun < tracker.announced < inf:
                tracker.notify()
        await self.commit()

    async def _commit(self) -> None:
        dirty, self._dirty = self._dirty, {}
        progress = [_progress(node, tracker, closing=self._closing) for node, tracker in dirty.values()]
        reached("ledger_committing")
        try:
            if self._before_commit is not None:
                await self._before_commit()
            await self._store.commit(self._run_id, progress, epoch=self._epoch)
        except BaseException:
            self._dirty = dirty | self._dirty
            for one, (_, tracker) in zip(progress, dirty.values(), strict=True):
                tracker.committable_bookmarks[:0] = one.bookmarks
            raise
        for one, (_, tracker) in zip(progress, dirty.values(), strict=True):
            self._note(one.node, one.split_key, one.tally)
            if one.read_limit is not None:
                tracker.announced = one.read_limit
        reached("ledger_committed")
        self._retire([tracker for _, tracker in dirty.values() if tracker.done])

    def _retire(self, done: Sequence[SplitTracker]) -> None:
        """Fold finished splits into one sum, so that a run of many splits stays small."""
        if not done:
            return
        finished = {id(tracker) for tracker in done}
        kept: list[tuple[str, SplitTracker]] = []
        for node, tracker in self._trackers:
            # a split that ends during a commit is retired with the next one
            if id(tracker) in finished:
                self._settled.add(tracker.covered)
            else:
                kept.append((node, tracker))
        self._trackers = kept

    async def commit_periodically(self) -> None:
        """Commit every 100 ms until cancelled."""
        while True:
            await anyio.sleep(COMMIT_EVERY)  # not the scripted clock: only the file depends on it
            await self.commit()

    async def refresh_other_workers_periodically(self) -> None:
        """Refresh every two seconds until cancelled."""
        while True:
            await self.refresh_other_workers()
            await anyio.sleep(LOOK_EVERY)

    async def tally(self) -> Tally:
        """Return the committed tally of the run."""
        try:
            return await self._store.tally(self._run_id)
        except RunNotFoundError:
            return Tally()


def _progress(node: str, tracker: SplitTracker, *, closing: bool = False) -> Progress:
    tracker.dirty = False  # later changes belong to the next commit
    covered = Tally()
    covered.add(tracker.covered)
    acked = [Acked(start, end, tally) for start, end, tally in tracker.acked_out_of_order()]
    passed = tracker.take_bookmarks()
    limit = _read_limit(tracker, closing=closing)
    return Progress(node, tracker.key, tracker.position, tracker.done, covered, acked, passed, limit)


def _read_limit(tracker: SplitTracker, *, closing: bool) -> int | None:
    """Return how many records of a split may be read before the next commit; None if all are replays."""
    if tracker.replay_until == inf:
        return None
    if closing:
        return int(max(tracker.begun, tracker.replay_until))
    ahead = min(max(tracker.begun // 4, MIN_READ_AHEAD), MAX_READ_AHEAD)
    tracker.read_limit = max(tracker.read_limit, tracker.begun + ahead)
    return int(tracker.read_limit)


class SourceBookmarks:
    """The store's bookmarks of one node of one pipeline."""

    def __init__(self, store: StateStore, pipeline: str, node: str) -> None:
        self._store = store
        self._pipeline = pipeline
        self._node = node

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        return await self._store.get_bookmarks(self._pipeline, self._node, scope, keys)
