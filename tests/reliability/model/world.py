"""A run under the model: its successive processes, and the ledger that outlives them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from engine.errors import LeaseLostError, StateFullError
from engine.flow.settle import settle_dropped
from engine.state.records import RunRecord, SplitRecord
from tests.reliability.model.books import Books, Flight, MismatchError, SplitBook, Standing, figures
from tests.reliability.model.components import Tape
from tests.reliability.model.process import BATCHERS, Process
from tests.reliability.model.stores import Killed, MortalStore

__all__ = ["World"]

T = TypeVar("T")


class World:
    """Runs the real parts beside the model and compares them wherever the ledger has spoken.

    Args:
        open_store: opens the store as a new process does.
        seen: counts notable events.

    Attributes:
        warehouse: copies of each key that a last sink has taken.
        zombie: a process that was taken for dead, and the batches that it has.
    """

    def __init__(self, open_store: Callable[[], MortalStore], seen: Counter[str]) -> None:
        self.seen = seen
        self.warehouse: Counter[str] = Counter()
        self.zombie: tuple[Process, list[Flight]] | None = None
        self._open_store = open_store
        self._opened: list[MortalStore] = []
        self._loop = asyncio.new_event_loop()
        self._runs = self._attempts = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the engine to its end."""
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """Close what was opened."""
        for store in self._opened:
            self.do(store.__aexit__(None, None, None))
        self._loop.close()

    # runs and processes

    def begin(self, sizes: Sequence[int], dies: int | None = None) -> None:
        """Begin a run over splits of these sizes, in two sources; `dies` as for `start`."""
        self._runs, self._attempts, self.zombie = self._runs + 1, 0, None
        self.run_id = f"run-{self._runs}"
        self.warehouse.clear()
        self.tapes = {
            node: Tape({f"s{n}": size for n, size in enumerate(sizes) if n % 2 == parity})
            for parity, node in enumerate("ab")
        }
        self.books = Books(
            SplitBook(node, key, size)
            for node, tape in self.tapes.items()
            for key, size in tape.sizes.items()
        )
        self.start(dies)

    def start(self, dies: int | None = None) -> None:
        """Start a process. It dies after `dies` moments of planning, if it lasts so long, and once only."""
        try:
            self.do(self._start(dies))
        except Killed:
            self.seen["killed while planning"] += 1
            self.do(self._start(None))
        self.process.fuse.lit = None
        self.books.flights.clear()
        self.books.held = [[] for _ in BATCHERS]
        self.look()

    async def _start(self, dies: int | None) -> None:
        self._attempts += 1
        store = self._open_store()
        if store not in self._opened:
            await store.__aenter__()
            self._opened.append(store)
        store.fuse.lit = store.fuse.meanwhile = None
        if self._attempts == 1:
            began = f"2026-01-01T{self._runs:06}"
            await store.create_run(RunRecord(self.run_id, "p", "g", "i", {}, {}, {}, "s", began))
        now = f"2026-01-01T{self._attempts:06}"
        lease = await store.acquire_lease(self.run_id, f"process {self._attempts}", now=now, until=now)
        resumed = self._attempts > 1
        dead_keys = await store.dead_letter_keys(self.run_id) if resumed else {}
        self.process = Process(store, lease, dead_keys)
        store.fuse.lit = dies
        for node, tape in self.tapes.items():
            await self.process.plan(node, tape)

    def resume(self, dies: int | None = None) -> None:
        """Check what the dead process has left, and start the next one."""
        self.look()
        for book in self.books.splits.values():
            book.resume()
        self.start(dies)

    # the ledger

    def stored(self) -> dict[str, SplitRecord]:
        """The splits as the store has them."""
        found = [self.ask(self.process.store.splits(self.run_id, node))[0] for node in self.tapes]
        return {record.split.key: record for records in found for record in records}

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """What the store answers to somebody who is not the process, and cannot die with it."""
        fuse = self.process.fuse
        lit, fuse.lit = fuse.lit, None
        answer = self.do(question)
        fuse.lit = lit
        return answer

    def bookmark(self, book: SplitBook) -> str:
        """The key of the bookmark that says how far a split is for later runs."""
        return f"{self.run_id}/{book.key}"

    def look(self) -> None:
        """Judge what the ledger says, and remember it."""
        stored, books = self.stored(), self.books.splits
        if set(stored) != set(books):
            raise MismatchError(f"the ledger has the splits {set(stored)}, there are {set(books)}")
        for key, book in books.items():
            book.standing = book.standing_of(stored[key])
            bookmark = self.bookmark(book)
            bookmarks = self.ask(self.process.store.get_bookmarks("p", book.node, "", [bookmark]))
            if list(bookmarks.values()) != [book.standing.position][: book.standing.position]:
                raise MismatchError(f"{key} is at {book.standing.position}, its bookmark says {bookmarks}")

    def commit(self, meanwhile: Flight | None = None) -> bool:
        """Commit; False when that was the end of the process.

        `meanwhile`: a batch that is dropped after the snapshot was taken and before it is written.
        """
        due = {key: book.now() for key, book in self.books.splits.items()}
        before = {key: book.standing for key, book in self.books.splits.items()}
        fuse = self.process.fuse
        if meanwhile is not None:
            fuse.meanwhile = lambda: self.drop(meanwhile)
        try:
            self.do(self.process.ledger.commit())
        except Killed:
            self.seen["killed in a commit"] += 1
            self.look()
            self._check_all_or_nothing(before, due)
            self.resume()
            return False
        if meanwhile is not None and fuse.meanwhile is not None:
            # there was nothing to write, so nothing has waited
            self.books.flights.append(meanwhile)
            fuse.meanwhile = meanwhile = None
        self.look()
        self._check_all_written(due, exactly=meanwhile is None)
        return True

    def fail_to_commit(self) -> None:
        """A commit fails, and the process continues: nothing was written, and nothing is forgotten."""
        before, fuse = self.stored(), self.process.fuse

        def refuse() -> None:
            raise StateFullError("no space is left")

        fuse.meanwhile = refuse
        try:
            self.do(self.process.ledger.commit())
        except StateFullError:
            self.seen["failed commits"] += 1
        fuse.meanwhile = None
        if self.stored() != before:
            raise MismatchError("a commit that has failed has changed the ledger")

    def _check_all_or_nothing(self, before: Mapping[str, Standing], due: Mapping[str, Standing]) -> None:
        wanted = {key for key, standing in due.items() if standing.moved(before[key])}
        moved = {key for key, book in self.books.splits.items() if book.standing.moved(before[key])}
        if moved not in (set(), wanted):
            raise MismatchError(f"a commit of the splits {wanted} has moved {moved} alone")

    def _check_all_written(self, due: Mapping[str, Standing], *, exactly: bool) -> None:
        for key, book in self.books.splits.items():
            wanted, standing = due[key], book.standing
            missing = {span for span in wanted.acked if span[0] >= standing.position} - standing.acked.keys()
            behind = wanted.moved(standing) if exactly else wanted.position > standing.position
            if behind or missing:
                raise MismatchError(f"{key}: {wanted} was to be committed, and {standing} was")
            self.seen["commits of batches settled out of order"] += bool(wanted.acked)
        self.seen["commits"] += 1

    def write_from_the_grave(self) -> None:
        """A process that was considered dead settles its records, and commits."""
        assert self.zombie is not None
        (process, flights), self.zombie = self.zombie, None
        before, lit = self.stored(), process.fuse.lit
        process.fuse.lit = None
        for flight in flights:
            settle_dropped(flight.batch.origins, "undead")
        try:
            self.do(process.ledger.commit())
        except LeaseLostError:
            self.seen["stale commits refused"] += 1
        process.fuse.lit = lit
        if self.stored() != before:
            raise MismatchError("a process that has lost its lease has changed the ledger")

    def drop(self, flight: Flight) -> None:
        """Let go of a batch."""
        settle_dropped(flight.batch.origins, "let go")
        for leaf in flight.leaves:
            self.books.drop(leaf, "let go")

    # invariants

    def check(self) -> None:
        """The memory of this process is as the model has it, and nothing is twice in the warehouse."""
        books, process = self.books, self.process
        books.check()
        live: Counter[str] = Counter()
        for book in books.splits.values():
            live.update(book.base.counts)
            self._check_tracker(book)
        for account in books.accounts():
            live.update(account.fate.counts)
        if process.ledger.in_flight != books.owed or figures(process.ledger.live()) != live:
            raise MismatchError(f"the live figures are {process.ledger.live()}, they should be {live}")
        reservations = [account.ack.reservation for account in books.accounts() if account.owed]
        held = sum(getattr(reservation, "nbytes", 0) for reservation in reservations)
        if process.budget.in_use != held:
            raise MismatchError(f"{process.budget.in_use} bytes are held, and what is in flight holds {held}")
        doubled = [key for key, copies in self.warehouse.items() if copies > 1]
        if doubled:
            raise MismatchError(f"doubled in the warehouse: {doubled}")

    def _check_tracker(self, book: SplitBook) -> None:
        tracker, now = self.process.trackers.get(book.key), book.now()
        if tracker is None:
            return
        position = int(str(tracker.position or 0))
        if position != now.position or tracker.done != now.done:
            raise MismatchError(
                f"{book.key}: the watermark is at {position} (done: {tracker.done}), but the first record"
                f" that is not settled is {now.position} (done: {now.done})"
            )
        if figures(tracker.covered) != now.counts:
            raise MismatchError(f"{book.key}: {tracker.covered} is covered, it should be {now.counts}")
