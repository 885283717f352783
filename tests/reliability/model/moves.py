"""Operations on batches, each done by the engine and in the books."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TypeVar

from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.keys import KeyRange
from engine.errors import NodeFailedError, OutageError, RecordError, TransientError
from tests.reliability.model.books import Account, Flight, Leaf, MismatchError, SplitBook
from tests.reliability.model.components import DROPS, MADE, Load, Shape
from tests.reliability.model.stores import Killed
from tests.reliability.model.world import World

__all__ = ["Moves", "one_of"]

T = TypeVar("T")

EACH = 20  # bytes that a record claims to have
CROWD = 100  # records in flight from which on nothing is multiplied any more


def one_of(choice: Sequence[T], which: int) -> T:
    """An element, whatever the number is."""
    return choice[which % len(choice)]


class Moves(World):
    """The moves of the machine; `take` a flight first, it comes back as one or several others."""

    def unread(self, *, at_end: bool = False) -> list[SplitBook]:
        """The splits that are still being read; `at_end`: those in which there are no more records."""
        books = self.books.splits.values()
        return [book for book in books if not book.ended and (not at_end or book.read_to == book.size)]

    @property
    def due(self) -> bool:
        """True when there is something to commit."""
        return any(book.now() != book.standing for book in self.books.splits.values())

    @property
    def under_way(self) -> bool:
        """True when this process has done enough for its death to matter."""
        return sum(1 for _ in self.books.accounts()) > 3

    @property
    def crowded(self) -> bool:
        """True when there are records enough."""
        return self.books.owed >= CROWD

    def take(self, which: int) -> Flight:
        """Take a batch out of those on their way."""
        flights = self.books.flights
        return flights.pop(which % len(flights))

    def fly(self, batch: Batch, leaves: list[Leaf]) -> None:
        """A batch is on its way, if there is anything in it."""
        if len(batch) or leaves:
            flight = Flight(batch, leaves)
            flight.check()
            self.books.flights.append(flight)

    def told(self, flight: Flight, kinds: Sequence[str]) -> dict[str, str]:
        """Instructions for each record of a batch."""
        if self.crowded:
            kinds = ["keep" if kind in MADE else kind for kind in kinds]
        return {leaf.key: kind for leaf, kind in zip(flight.leaves, cycle(kinds), strict=False)}

    def read(self, book: SplitBook, count: int, bad: Sequence[int] = (), stumbles: int = 0) -> None:
        """Read the next `count` records of a split, `bad` of them unreadable, after `stumbles` failures."""
        start, end = book.read_to, book.read_to + count
        batch = Batch(
            [f"{book.key}/{n}" for n in range(start, end)],
            KeyRange(f"{book.key}/", start, end),
            position=end,
            nbytes=count * EACH,
        )
        batch.bookmarks = [Bookmark("", self.bookmark(book), end)] if count else []
        batch.failures = [(index, RecordError("unreadable")) for index in bad if index < count]
        leaves = list(zip(batch.records, batch.keys.to_list(), strict=True))
        process, played = self.process, [*[TransientError("busy")] * stumbles, batch]
        process.died.clear()
        tracker = process.trackers[book.key]
        announced = tracker.announced
        try:
            out = self.do(process.read(book.node, self.tapes[book.node], book.key, played, more=True))  # type: ignore[arg-type]
        except Killed:
            self.die("killed at work")
            return
        if tracker.announced != announced:
            self.look()  # what had settled was committed with the announcement of what is read
        (ack, _), *_ = batch.origins
        account = self.books.opened(book, ack, count)
        if count and not account.owed:
            self.seen["batches that an earlier process has settled"] += 1
            if out:
                raise MismatchError(f"{account.span} is settled, and yet it is delivered again")
            return
        self._sort_in(account, leaves, out, book.node)

    def _sort_in(
        self, account: Account, read: Sequence[tuple[str, str]], out: Sequence[Batch], node: str
    ) -> None:
        leaves = {key: Leaf(account, record, key) for record, key in read}
        for _, key in self.process.died:
            self.books.dead_letter(leaves.pop(key), node)
        for batch in out:
            self.fly(batch, [leaves.pop(key) for key in batch.keys.to_list()])
        if leaves:
            raise MismatchError(f"{list(leaves)} were read and not handed on")

    def end(self, book: SplitBook) -> None:
        """Reach the end of a split."""
        self.do(self.process.read(book.node, self.tapes[book.node], book.key, (), more=False))
        book.ended = True

    def see_through(
        self, flight: Flight, node: str, component: Shape | Load, out: list[Batch] | None,
        *, on_stall: bool = False,
    ) -> None:  # fmt: skip
        """See a batch through a node; without `out` it is the last one."""
        self.process.died.clear()
        trouble: Exception | None = None
        try:
            self.do(self.process.work(node, component, flight.batch, out, on_stall=on_stall))
        except Killed:
            self.die("killed at work")
            return
        except (OutageError, NodeFailedError) as error:
            trouble = error
        left = self._book(flight, node, component, out)
        if trouble is not None:
            # what is settled is committed, and the run stops
            self.seen[type(trouble).__name__] += 1
            if self.commit():
                self.resume()
        elif left:
            raise MismatchError(f"{left} came to {node} and nothing became of them")

    def _book(self, flight: Flight, node: str, component: Shape | Load, out: list[Batch] | None) -> list[str]:
        """Put down what the node has done; returns the keys that it has done nothing with."""
        leaves = {leaf.key: leaf for leaf in flight.leaves}
        for _, key in self.process.died:
            if not component.may_die(key) and key not in self.process.dead_keys.get(node, ()):
                raise MismatchError(f"{key} is dead, and nothing was wrong with it")
            self.books.dead_letter(leaves.pop(key), node)
        handed_on: dict[str, Leaf] = {}
        for key, kind in component.done.items():
            if key not in leaves:
                raise MismatchError(f"{key} has died before, and {node} was asked for it again")
            leaf = leaves.pop(key)
            if isinstance(component, Load):
                self.books.delivered(leaf, node)
                if out is None:
                    self.books.write(leaf, confirmed=component.confirmed)
                else:
                    handed_on[key] = leaf
            else:
                self._book_change(leaf, kind, node, handed_on)
        for batch in out or ():
            self.fly(batch, [handed_on.pop(key) for key in batch.keys.to_list()])
        if handed_on:
            raise MismatchError(f"{list(handed_on)} were made at {node} and not handed on")
        return list(leaves)

    def _book_change(self, leaf: Leaf, kind: str, node: str, handed_on: dict[str, Leaf]) -> None:
        if kind in DROPS:
            self.books.drop(leaf, f"{node}: {DROPS[kind]}")
        elif kind in MADE:
            self.books.fork(leaf, MADE[kind] - 1)
            for number in range(MADE[kind]):
                key = f"{leaf.key}/{number}"
                handed_on[key] = Leaf(leaf.account, f"{leaf.record}.{number}", key)
        else:
            handed_on[leaf.key] = leaf

    def branch(self, flight: Flight, branches: int) -> None:
        """Send a batch to several branches."""
        for leaf in flight.leaves:
            self.books.fork(leaf, branches - 1)
        for number, batch in enumerate(self.do(self.process.branch(flight.batch, branches))):
            self.fly(batch, [leaf._replace(key=f"{leaf.key}#{number}") for leaf in flight.leaves])

    def pack(self, flight: Flight, number: int) -> None:
        """Hand a batch to a batcher, and take what is full now."""
        self.books.held[number] += flight.leaves
        for batch in self.process.batchers[number].add(flight.batch):
            self._unpack(number, batch)

    def flush(self, number: int) -> None:
        """Take the records that a batcher holds."""
        self._unpack(number, self.process.batchers[number].flush())

    def _unpack(self, number: int, batch: Batch) -> None:
        held = self.books.held[number]
        leaves, self.books.held[number] = held[: len(batch)], held[len(batch) :]
        self.fly(batch, leaves)

    def spend(self, flight: Flight, tokens: int) -> None:
        """Pay for a batch: no token is lost, and none is booked on records that are not in it."""
        accounts = {leaf.account for leaf in flight.leaves}
        before = {account: account.ack.tally.tokens_in for account in accounts}
        flight.batch.spend(tokens, 0, 0.0)
        shares = {account: account.ack.tally.tokens_in - before[account] for account in accounts}
        if sum(shares.values()) != tokens or min(shares.values()) < 0:
            raise MismatchError(f"{tokens} tokens are shared as {list(shares.values())}")
        for account, share in shares.items():
            account.fate.counts["tokens_in"] += share

    def die(self, how: str, dies: int | None = None) -> None:
        """Kill the process, losing everything in its memory."""
        self.seen[how] += 1
        self.resume(dies)

    def finish(self) -> None:
        """See everything through; nothing is lost, and nothing is counted or delivered twice."""
        self.process.fuse.lit = None
        for book in self.unread():
            self.read(book, book.size - book.read_to)
            self.end(book)
        for number in range(len(self.books.held)):
            self.flush(number)
        while self.books.flights:
            flight = self.take(0)
            sink = Load(self.warehouse, self.told(flight, ["keep"]), confirmed=True)
            self.see_through(flight, "load", sink, None)
        self.check()
        self.commit()
        self._check_what_is_left()
        self.seen["runs finished"] += 1

    def _check_what_is_left(self) -> None:
        process, books = self.process, self.books.splits
        if not all(book.standing.done for book in books.values()):
            raise MismatchError("everything was read and settled, and some splits are not done")
        if process.budget.in_use or process.ledger.in_flight:
            raise MismatchError(
                f"{process.budget.in_use} bytes or {process.ledger.in_flight} records are still held"
            )
        tally = self.do(process.ledger.tally())
        if tally.read != sum(book.size for book in books.values()) or not tally.balanced:
            raise MismatchError(f"the figures do not add up: {tally}")
        for book in books.values():
            book.check_coverage()
        letters = self.do(process.store.dead_letter_keys(self.run_id))
        for book in books.values():
            for fate in book.final():
                if lost := [key for key in fate.written if not self.warehouse[key]]:
                    raise MismatchError(f"{lost} were written, and the warehouse does not have them")
                if lost := [place for place in fate.dead if place[1] not in letters.get(place[0], ())]:  # type: ignore[misc]
                    raise MismatchError(f"{lost} are dead without a letter")
