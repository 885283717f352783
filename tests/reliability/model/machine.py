"""The stateful model: reading, changing, splitting, merging, delivering, committing and dying in any order.

Each rule does the same thing twice, with the engine's own parts and in plain lists. The invariant compares
the two, and whatever the ledger says after a commit or a death is compared as well.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.contract.batch import join
from tests.reliability.model.components import CALL_FAULTS, FATES, SIEVED, TAKEN, Load, Shape
from tests.reliability.model.moves import Moves, one_of
from tests.reliability.model.process import BATCHERS
from tests.reliability.model.stores import MortalMemoryStore, MortalSqliteStore, MortalStore

__all__ = ["LONG", "SHORT", "DeliveryModel", "DeliveryModelOnDisk"]

SHORT = settings(
    max_examples=60,
    stateful_step_count=50,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(SHORT, max_examples=20, stateful_step_count=100)

SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=4)
INDEX = st.integers(0, 15)
BAD = st.sets(st.integers(0, 4), max_size=2)
COUNTS = st.lists(st.sampled_from((1, 2, 3, 4, 5, 0)), min_size=1, max_size=4)
KNOWN = st.lists(st.sampled_from((True, True, True, False)), min_size=1, max_size=4)
BATCHER = st.integers(0, len(BATCHERS) - 1)
MADE_OF = st.lists(st.sampled_from(FATES), min_size=1, max_size=6)
SIEVED_TO = st.lists(st.sampled_from(SIEVED), min_size=1, max_size=6)
TAKEN_AS = st.lists(st.sampled_from(TAKEN), min_size=1, max_size=6)
FAULTS = st.lists(st.sampled_from(("",) * 18 + CALL_FAULTS), max_size=2)

in_flight = precondition(lambda self: self.moves.books.flights)


class DeliveryModel(RuleBasedStateMachine):
    """One run after the other, each through any number of processes, with a store in memory.

    Class attributes:
        seen: how often something worth mentioning has happened, over all examples; `steps` among it.
    """

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.moves = Moves(self.open_store, self.seen)
        self.store = MortalMemoryStore()
        self.sizes: list[int] | None = None

    def open_store(self) -> MortalStore:
        """The store, as a new process opens it."""
        return self.store

    @initialize(sizes=SIZES, dies=st.none() | st.integers(0, 4))
    def begin(self, sizes: list[int], dies: int | None) -> None:
        """Plan a run, perhaps not at the first try."""
        self.moves.begin(sizes, dies)
        self.sizes = sizes
        self.seen["examples"] += 1
        self.seen["steps"] -= 1  # this is none, and the invariant will count it

    @rule(which=INDEX, counts=COUNTS, known=KNOWN, bad=BAD, stumbles=st.integers(0, 2))
    @precondition(lambda self: self.moves.unread())
    def read(self, which: int, counts: list[int], known: list[bool], bad: set[int], stumbles: int) -> None:
        """Read batches of a split, cut as an earlier process has cut them (`known`) or afresh."""
        book = one_of(self.moves.unread(), which)
        for count, again in zip(counts, cycle(known), strict=False):
            if book not in self.moves.unread():
                return  # the process has died over it, and the next one knows that there is no more
            self.moves.read(book, book.cut(count, again=again), sorted(bad), stumbles)
            bad, stumbles = set(), 0

    @rule(which=INDEX)
    @precondition(lambda self: self.moves.unread(at_end=True))
    def end(self, which: int) -> None:
        """Reach the end of a split."""
        self.moves.end(one_of(self.moves.unread(at_end=True), which))

    @in_flight
    @rule(which=INDEX, kinds=MADE_OF, faults=FAULTS, on_stall=st.booleans())
    def shape(self, which: int, kinds: list[str], faults: list[str], on_stall: bool) -> None:
        """See a batch through a transform: change, drop, fan out, fail, die."""
        flight = self.moves.take(which)
        transform = Shape(self.moves.told(flight, kinds), faults)
        self.moves.see_through(flight, "shape", transform, [], on_stall=on_stall)

    @in_flight
    @rule(which=INDEX, kinds=SIEVED_TO)
    def sieve(self, which: int, kinds: list[str]) -> None:
        """Drop for several reasons, in several steps of one transform."""
        flight = self.moves.take(which)
        self.moves.see_through(flight, "sieve", Shape(self.moves.told(flight, kinds)), [])

    @in_flight
    @rule(which=INDEX, branches=st.integers(2, 3))
    @precondition(lambda self: not self.moves.crowded)
    def branch(self, which: int, branches: int) -> None:
        """Send a batch to several branches."""
        self.moves.branch(self.moves.take(which), branches)

    @in_flight
    @rule(which=INDEX, batcher=BATCHER)
    def pack(self, which: int, batcher: int) -> None:
        """Batch again, over all that is held."""
        self.moves.pack(self.moves.take(which), batcher)

    @rule(batcher=BATCHER)
    @precondition(lambda self: any(self.moves.books.held))
    def flush(self, batcher: int) -> None:
        """Release records held to fill a batch."""
        self.moves.flush(batcher)

    @in_flight
    @rule(which=INDEX, at=INDEX)
    def cut(self, which: int, at: int) -> None:
        """Cut a batch in two."""
        flight = self.moves.take(which)
        size = len(flight.leaves)
        at %= size + 1
        self.moves.fly(flight.batch.slice(0, at), flight.leaves[:at])
        self.moves.fly(flight.batch.slice(at, size), flight.leaves[at:])

    @in_flight
    @rule(which=INDEX, places=st.lists(st.booleans(), min_size=1, max_size=6))
    def pick(self, which: int, places: list[bool]) -> None:
        """Pick some records out of a batch."""
        flight = self.moves.take(which)
        sides = list(zip(range(len(flight.leaves)), cycle(places), strict=False))
        for side in (True, False):
            indices = [index for index, one in sides if one is side]
            self.moves.fly(flight.batch.take(indices), [flight.leaves[index] for index in indices])

    @in_flight
    @rule(which=st.lists(INDEX, min_size=2, max_size=3))
    def meet(self, which: list[int]) -> None:
        """Join batches, of any splits."""
        flights = [self.moves.take(one) for one in which if self.moves.books.flights]
        leaves = [leaf for flight in flights for leaf in flight.leaves]
        self.moves.fly(join([flight.batch for flight in flights]), leaves)

    @in_flight
    @rule(which=INDEX, kinds=TAKEN_AS, faults=FAULTS, confirmed=st.booleans(), on_stall=st.booleans())
    def load(self, which: int, kinds: list[str], faults: list[str], confirmed: bool, on_stall: bool) -> None:
        """Deliver a batch to a last sink."""
        flight = self.moves.take(which)
        told = self.moves.told(flight, kinds)
        sink = Load(self.moves.warehouse, told, faults, confirmed=confirmed)
        self.moves.see_through(flight, "load", sink, None, on_stall=on_stall)

    @in_flight
    @rule(which=INDEX, kinds=TAKEN_AS, faults=FAULTS)
    def stage(self, which: int, kinds: list[str], faults: list[str]) -> None:
        """Deliver a batch to a sink that hands on what it has acknowledged."""
        flight = self.moves.take(which)
        sink = Load(Counter(), self.moves.told(flight, kinds), faults)
        self.moves.see_through(flight, "stage", sink, [])

    @in_flight
    @rule(which=INDEX)
    def drop_unrouted(self, which: int) -> None:
        """Come to a place with nothing behind it."""
        self.moves.drop(self.moves.take(which))

    @in_flight
    @rule(which=INDEX, tokens=st.integers(0, 30))
    def spend(self, which: int, tokens: int) -> None:
        """Pay for a batch."""
        self.moves.spend(one_of(self.moves.books.flights, which), tokens)

    @in_flight
    @rule(moments=st.integers(0, 3))
    def light_the_fuse(self, moments: int) -> None:
        """The process will die in one of the next operations of the store."""
        self.moves.process.fuse.lit = moments

    @rule()
    @precondition(lambda self: self.moves.due)
    def commit(self) -> None:
        """Write what is settled."""
        self.moves.commit()

    @in_flight
    @rule(which=INDEX)
    def commit_while_more_is_settled(self, which: int) -> None:
        """Something settles between the snapshot and the transaction."""
        self.moves.commit(self.moves.take(which))

    @rule(moments=st.integers(0, 4))
    @precondition(lambda self: self.moves.due)
    def die_in_a_commit(self, moments: int) -> None:
        """Die before the transaction, in it or behind it, or come away with it."""
        self.moves.process.fuse.lit = moments
        if self.moves.commit():
            self.moves.process.fuse.lit = None

    @rule()
    @precondition(lambda self: self.moves.due)
    def fail_to_commit(self) -> None:
        """The disk is full, for a while."""
        self.moves.fail_to_commit()

    @rule(dies=st.none() | st.integers(0, 2), lives_on=st.booleans())
    @precondition(lambda self: self.moves.under_way)
    def die(self, dies: int | None, lives_on: bool) -> None:
        """Throw all memory away and go on from the store; or only seem to be dead."""
        if lives_on:
            self.moves.zombie = self.moves.process, list(self.moves.books.flights)
        self.moves.die("killed", dies)

    @rule()
    @precondition(lambda self: self.moves.zombie)
    def write_from_the_grave(self) -> None:
        """A process that was taken for dead continues."""
        self.moves.write_from_the_grave()

    @rule()
    @precondition(lambda self: not self.moves.unread())
    def finish(self) -> None:
        """Finish a run, check its results, and begin another one."""
        assert self.sizes is not None
        self.moves.finish()
        self.moves.begin(self.sizes)

    @invariant()
    def engine_and_model_agree(self) -> None:
        self.seen["steps"] += 1
        self.moves.check()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.sizes is not None:
                self.moves.finish()
        finally:
            self.moves.close()


class DeliveryModelOnDisk(DeliveryModel):
    """The same with the store that runs use by default; each process opens the file again."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    def open_store(self) -> MortalStore:
        return MortalSqliteStore(Path(self.folder.name))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()
