"""Acknowledgements: track which records are settled.

Each source batch has one `Ack`. Every record derived from it settles that ack once: written, dropped or dead.
When all are settled the ack is complete, its bytes return to the budget, and the low-watermark of its split
advances over all complete acks at the front, without gaps. The watermark is stored with the tally of exactly
the batches it covers, so a report from the ledger never counts a record that would be read again after a
crash. Complete acks beyond the watermark are stored with their own tallies: a resume that reaches the same
batch again does not deliver it a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.contract.bookmarks import Bookmark
    from engine.contract.types import Reservation

__all__ = ["Ack", "AckedRange", "Origin", "SplitTracker", "Tally"]

MAX_OUT_OF_ORDER = 256  # maximum of stored complete acks beyond the watermark, per split


@dataclass(slots=True)
class Tally:
    """Outcomes of records; all fields are counts of records, except tokens and cost.

    `read + forked == written + dropped + dead` once everything is settled. `forked` counts the extra records
    of fan-outs and lists; `accepted` is the part of `written` whose outcome the sink could not learn.
    """

    read: int = 0
    forked: int = 0
    written: int = 0
    accepted: int = 0
    dropped: int = 0
    dead: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    """Dropped records by `node: reason`."""
    delivered: dict[str, int] = field(default_factory=dict)
    """Records delivered by each sink, by node, including sinks that other nodes follow. Under "" are counts
    from before the ledger recorded the node."""
    deaths: dict[str, int] = field(default_factory=dict)
    """Dead records by node; "" as above."""

    def add(self, other: Tally) -> None:
        """Add `other` to this tally."""
        self.read += other.read
        self.forked += other.forked
        self.written += other.written
        self.accepted += other.accepted
        self.dropped += other.dropped
        self.dead += other.dead
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.cost_usd += other.cost_usd
        _add_to(self.drops, other.drops)
        _add_to(self.delivered, other.delivered)
        _add_to(self.deaths, other.deaths)

    @property
    def balanced(self) -> bool:
        """Whether every record read or made is accounted for."""
        return self.read + self.forked == self.written + self.dropped + self.dead

    def to_json(self) -> dict[str, int | float | dict[str, int]]:
        """Return all fields as a plain mapping, for ledgers and reports."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _add_to(sums: dict[str, int], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        sums[name] = sums.get(name, 0) + count


class Ack:
    """The account of one source batch; created by `SplitTracker.begin`.

    The usual counts (records written by one sink, dropped for one reason) are kept in the ack itself; a
    separate tally is created only for a batch with more counts.

    Attributes:
        replay: these records may have been delivered before.
    """

    __slots__ = (
        "_delivered",
        "_dropped",
        "_lost",
        "_marks",
        "_read",
        "_reason",
        "_rest",
        "_sink",
        "_written",
        "bookmarks",
        "end",
        "pending",
        "replay",
        "reservation",
        "start",
        "tracker",
    )  # fmt: skip

    def __init__(
        self,
        tracker: SplitTracker,
        start: object,
        end: object,
        count: int,
        reservation: Reservation | None,
        bookmarks: Sequence[Bookmark],
    ) -> None:
        self.tracker = tracker
        self.start = start
        self.end = end
        self.pending = count
        self.replay = tracker.begun < tracker.replay_until
        self.reservation = reservation
        self.bookmarks = bookmarks
        self._read = count
        self._written = self._delivered = self._dropped = 0
        self._sink = self._reason = ""
        self._marks: list[tuple[str, Bookmark]] | None = None
        self._lost: list[str] | None = None
        self._rest: Tally | None = None

    @property
    def tally(self) -> Tally:
        """Return the outcomes of the records so far."""
        total = Tally()
        self.add_to(total)
        return total

    def add_to(self, total: Tally) -> None:
        """Add this batch's tally to `total`."""
        total.read += self._read
        total.written += self._written
        if self._delivered:
            total.delivered[self._sink] = total.delivered.get(self._sink, 0) + self._delivered
        if self._dropped:
            total.dropped += self._dropped
            total.drops[self._reason] = total.drops.get(self._reason, 0) + self._dropped
        if self._rest is not None:
            total.add(self._rest)

    def restore(self, tally: Tally) -> None:
        """Complete the ack with the tally of an earlier attempt."""
        self.pending = self._read = 0
        self._rest = tally

    @property
    def complete(self) -> bool:
        """Whether all records are settled."""
        return self.pending == 0

    def fork(self, count: int) -> None:
        """Add `count` derived records, to be settled like the others."""
        self.pending += count
        self._more().forked += count

    def delivered(self, count: int, node: str) -> None:
        """Count `count` records as delivered by a sink that may have downstream nodes; settles nothing."""
        if not self._delivered:
            self._sink = node
        if node == self._sink:
            self._delivered += count
        else:
            delivered = self._more().delivered
            delivered[node] = delivered.get(node, 0) + count

    def written(self, count: int, *, confirmed: bool = True) -> None:
        """Settle `count` records as written; `confirmed=False` if the sink could not learn their outcome."""
        self._written += count
        if not confirmed:
            self._more().accepted += count
        self.pending -= count
        if self.pending <= 0:
            self._settled()

    def dropped(self, count: int, reason: str) -> None:
        """Settle `count` records as dropped."""
        if not self._dropped:
            self._reason = reason
        if reason == self._reason:
            self._dropped += count
        else:
            rest = self._more()
            rest.dropped += count
            rest.drops[reason] = rest.drops.get(reason, 0) + count
        self.pending -= count
        if self.pending <= 0:
            self._settled()

    def remember(self, key: str, bookmark: Bookmark) -> None:
        """Commit a bookmark with this batch, unless this record or one derived from it dies."""
        if self._marks is None:
            self._marks = []
        self._marks.append((key, bookmark))

    def lost(self, key: str) -> bool:
        """Return whether this record or one derived from it has died since a bookmark was set."""
        return self._lost is not None and any(_made_of(one, key) for one in self._lost)

    def take_bookmarks(self) -> Iterator[Bookmark]:
        """Yield the bookmarks of records that did not die, once."""
        marks, self._marks = self._marks, None
        return (bookmark for key, bookmark in marks or () if not self.lost(key))

    def dead(self, count: int, node: str, keys: Sequence[str] = ()) -> None:
        """Settle `count` records with these keys as dead at this node."""
        if self._marks is not None:
            self._lost = [*(self._lost or ()), *keys]
        rest = self._more()
        rest.dead += count
        rest.deaths[node] = rest.deaths.get(node, 0) + count
        self.pending -= count
        if self.pending <= 0:
            self._settled()

    def charge_growth(self, nbytes: int) -> None:
        """Charge `nbytes` beyond the reservation for derived records, without waiting."""
        if self.reservation is not None:
            self.reservation.grow(nbytes)

    def add_cost(self, tokens_in: int, tokens_out: int, cost_usd: float) -> None:
        """Book the cost of a model call for this batch's records; settles nothing."""
        rest = self._more()
        rest.tokens_in += tokens_in
        rest.tokens_out += tokens_out
        rest.cost_usd += cost_usd

    def _more(self) -> Tally:
        if self._rest is None:
            self._rest = Tally()
        return self._rest

    def _settled(self) -> None:
        if self.pending < 0:
            raise EngineError(
                "a record was settled twice: the counts of this run cannot be trusted (internal error)"
            )
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None
        self.tracker.settled()


def _made_of(key: str, origin: str) -> bool:
    """Return whether this is the key of the record `origin` or of one derived from it."""
    more = key[len(origin) :]
    return key.startswith(origin) and not (more[:1].isdigit() and origin[-1:].isdigit())


Origin = tuple[Ack, int]
"""An ack and how many consecutive records of a batch belong to it."""

AckedRange = tuple[object, object, Tally]
"""A complete batch beyond the watermark: where it starts and ends, and its tally."""


class SplitTracker:
    """The acks of one split in reading order, and its watermark.

    Args:
        key: names the split in the ledger.
        position: where reading starts; None means the beginning.
        replay: everything in the split may have been delivered before.
        read_limit: maximum of records, from the beginning of the split, that earlier attempts may have read;
            they are replays.
        covered: the tally of the records before `position`, from the ledger.
        acked_out_of_order: batches beyond `position` that an earlier attempt settled, from the ledger.
        on_progress: called with this tracker whenever an ack is complete or the split is done.

    Attributes:
        begun: number of records read, from the beginning of the split.
        replay_until: records before this number are replays.
        read_limit, announced: how many records may be read, and how many the ledger has committed as such.
        committable_bookmarks: those that the watermark has passed, not committed yet, oldest first.
        dirty: set by the receiver of `on_progress`, which is not called again until it is unset.
    """

    __slots__ = (
        "_acked_out_of_order",
        "_acks",
        "_on_progress",
        "_read_to",
        "_reading",
        "announced",
        "begun",
        "committable_bookmarks",
        "covered",
        "dirty",
        "key",
        "position",
        "read_limit",
        "replay_until",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        position: object = None,
        *,
        replay: bool = False,
        read_limit: int = 0,
        covered: Tally | None = None,
        acked_out_of_order: Sequence[AckedRange] = (),
        on_progress: Callable[[SplitTracker], None] | None = None,
    ) -> None:
        self.key = key
        self.position = position
        self.covered = covered if covered is not None else Tally()
        self.begun = self.covered.read
        self.replay_until = self.read_limit = self.announced = inf if replay else read_limit
        self.committable_bookmarks: list[Bookmark] = []
        self._acks: deque[Ack] = deque()
        self._acked_out_of_order = list(acked_out_of_order)
        self._read_to = position
        self._reading = True
        self._on_progress = on_progress
        self.dirty = False

    def begin(
        self,
        count: int,
        end: object,
        reservation: Reservation | None = None,
        bookmarks: Sequence[Bookmark] = (),
    ) -> Ack:
        """Open the ack of the next batch: `count` records, ending at position `end` (next unread).

        `reservation` is released when everything is settled. An empty batch, or one that an earlier attempt
        has settled, is complete at once and only moves the position.
        """
        start, self._read_to = self._read_to, end
        ack = Ack(self, start, end, count, reservation, bookmarks)
        self.begun += count
        self._acks.append(ack)
        if self._acked_out_of_order:
            self._restore(ack)
        if not ack.pending:
            if reservation is not None:
                reservation.release()
            self.settled()
        return ack

    def _restore(self, ack: Ack) -> None:
        """Restore the tally of the same batch from an earlier attempt."""
        for index, (start, end, tally) in enumerate(self._acked_out_of_order):
            if start == ack.start and end == ack.end and tally.read == ack.pending:
                ack.restore(tally)
                del self._acked_out_of_order[index]
                return

    def acked_out_of_order(self) -> list[AckedRange]:
        """Return up to 256 complete batches beyond the watermark; further ones will be re-read.

        No two begin at the same place.
        """
        if self.done:
            return []
        own = [(ack.start, ack.end, ack.tally) for ack in self._settled_out_of_order()]
        if not self._acked_out_of_order:
            return own
        # a resume may form other batches than the attempt before
        starts = [start for start, _, _ in own]
        earlier = (one for one in self._acked_out_of_order if one[0] not in starts)
        return list(islice(chain(own, earlier), MAX_OUT_OF_ORDER))

    def _settled_out_of_order(self) -> Iterator[Ack]:
        complete = (
            ack for ack in self._acks if not ack.pending and ack.end is not None and ack.end != ack.start
        )
        return islice(complete, MAX_OUT_OF_ORDER)

    def take_bookmarks(self) -> list[Bookmark]:
        """Return the bookmarks to commit with the position and with `acked_out_of_order`, once."""
        found, self.committable_bookmarks = self.committable_bookmarks, []
        for ack in self._settled_out_of_order():
            found += ack.take_bookmarks()
        return found

    def finish_reading(self) -> None:
        """Mark the split as read to its end."""
        self._reading = False
        self.notify()

    @property
    def done(self) -> bool:
        """Whether the split was read to its end and is settled."""
        return not self._reading and not self._acks

    @property
    def in_flight(self) -> int:
        """Number of records read and not yet settled, including fan-outs."""
        return sum(ack.pending for ack in self._acks)

    def live(self) -> Tally:
        """Return the tally, including batches beyond the watermark."""
        total = Tally()
        total.add(self.covered)
        for ack in self._acks:
            ack.add_to(total)
        return total

    def unsettled(self) -> Tally:
        """Return what is done for batches that are not complete; their records are counted when they are."""
        total = Tally()
        for ack in self._acks:
            if ack.pending:
                ack.add_to(total)
        return total

    def settled(self) -> None:
        """Advance the watermark over all complete acks at the front."""
        acks = self._acks
        while acks and not acks[0].pending:
            ack = acks.popleft()
            self.position = ack.end
            ack.add_to(self.covered)
            if ack.bookmarks:
                self.committable_bookmarks += ack.bookmarks
            self.committable_bookmarks += ack.take_bookmarks()
        if not self.dirty:
            self.notify()

    def notify(self) -> None:
        """Request a commit of the split."""
        if self._on_progress is not None:
            self._on_progress(self)
