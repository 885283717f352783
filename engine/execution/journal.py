"""The journal of paid answers: consulted before paying, written before an answer goes downstream.

An engine has one. Runs of that engine meet here: of several that ask the same question at the same time,
one pays and the others take its answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from engine.contract.clock import Clock, timestamp
from engine.contract.journal import AnswerClaim, JournalEntry
from engine.state.store import StateStore

__all__ = ["Journal", "NodeJournal"]


class Journal:
    """Paid answers of one store, and the questions in flight.

    Nothing is cached: what is held in memory is the questions in flight, and an event for each that somebody
    waits for.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._in_flight: dict[str, anyio.Event | None] = {}

    def of_node(self, pipeline: str, node: str, run_id: str) -> NodeJournal:
        """Return the journal for one node of one run; its entries record who paid."""
        return NodeJournal(self, pipeline, node, run_id)

    @property
    def in_flight(self) -> int:
        """Questions being paid for right now."""
        return len(self._in_flight)

    def take(self, keys: Collection[str]) -> tuple[set[str], dict[str, anyio.Event]]:
        """Claim those of `keys` that are free, and return them with the events of the others."""
        ours: set[str] = set()
        theirs: dict[str, anyio.Event] = {}
        for key in keys:
            if key in self._in_flight:
                theirs[key] = self._in_flight[key] = self._in_flight[key] or anyio.Event()
            else:
                self._in_flight[key] = None
                ours.add(key)
        return ours, theirs

    def give_back(self, keys: Collection[str]) -> None:
        """End the taking of these, answered or not, and wake who waits for them."""
        for key in keys:
            awaited = self._in_flight.pop(key)
            if awaited is not None:
                awaited.set()

    async def look_up(self, keys: Collection[str], run_id: str) -> dict[str, JournalEntry]:
        """What is stored for `keys` and holds for this run. Raises `StateError`."""
        found = await self._store.get_journal(keys)
        return {
            key: entry for key, entry in found.items() if not entry.this_run_only or entry.run_id == run_id
        }

    async def store(
        self, entries: Sequence[JournalEntry], forget: Collection[str], run_id: str, pipeline: str, node: str
    ) -> None:
        """Have these on disk, with the time and who paid. Not interrupted: they are paid for.

        `forget`: keys to delete.

        Raises `StateError`.
        """
        now = timestamp(self._clock.now())
        signed = [
            replace(entry, run_id=run_id, pipeline=pipeline, node=node, created_at=now) for entry in entries
        ]
        with anyio.CancelScope(shield=True):
            await self._store.put_journal(signed, forget)

    async def cost(self, run_id: str, node: str) -> float:
        """USD that this run has paid at this node. Raises `StateError`."""
        return await self._store.journal_cost(run_id, node)


class NodeJournal:
    """Meets `engine.contract.journal.AnswerJournal`, which has the documentation."""

    def __init__(self, journal: Journal, pipeline: str, node: str, run_id: str) -> None:
        self._journal = journal
        self._pipeline = pipeline
        self._node = node
        self._run_id = run_id

    @asynccontextmanager
    async def claim(self, keys: Collection[str]) -> AsyncGenerator[AnswerClaim, None]:
        # Claimed first and looked up then: an answer that is stored in between is found, and one that comes
        # later sets an event that we hold already.
        ours, theirs = self._journal.take(keys)
        claim = _Claim(self, ours, theirs)
        try:
            await claim.look_up(keys)
            yield claim
        finally:
            claim.end()

    async def spent(self) -> float:
        return await self._journal.cost(self._run_id, self._node)

    def is_ours(self, entry: JournalEntry) -> bool:
        return (entry.run_id, entry.node) == (self._run_id, self._node)

    async def look_up(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        """Return the answer that holds for this run."""
        return await self._journal.look_up(keys, self._run_id)

    async def store(self, entries: Sequence[JournalEntry], forget: Collection[str]) -> None:
        """Store with the names of who paid, and delete what is to be forgotten."""
        await self._journal.store(entries, forget, self._run_id, self._pipeline, self._node)

    def give_back(self, keys: Collection[str]) -> None:
        """End the taking of these."""
        self._journal.give_back(keys)


class _Claim:
    """Meets `engine.contract.journal.AnswerClaim`."""

    def __init__(self, journal: NodeJournal, ours: set[str], theirs: Mapping[str, anyio.Event]) -> None:
        self._journal = journal
        self._taken = set(ours)
        self._theirs = dict(theirs)
        self.answers: dict[str, JournalEntry] = {}
        self.ours: frozenset[str] = frozenset(ours)

    async def look_up(self, keys: Collection[str]) -> None:
        """Find what is answered already; none of that is ours."""
        self.answers = await self._journal.look_up(keys)
        self.ours = frozenset(self._taken - self.answers.keys())
        for key in self.answers:
            self._theirs.pop(key, None)
        self._give_back(self.answers.keys())

    async def keep(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        await self._journal.store(entries, forget)
        self._give_back([entry.key for entry in entries])

    async def others(self) -> None:
        for event in self._theirs.values():
            await event.wait()

    def end(self) -> None:
        """Give up what is still taken."""
        self._give_back(self._taken)

    def _give_back(self, keys: Collection[str]) -> None:
        ending = self._taken.intersection(keys)
        self._taken -= ending
        self._journal.give_back(ending)
