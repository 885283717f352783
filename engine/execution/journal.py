"""The journal of paid answers: consulted before paying, written before an answer goes downstream.

Each engine has one, shared by its runs: if several ask the same question at the same time, one pays and the
others use its answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from engine.contract.clock import Clock, timestamp
from engine.contract.journal import AnswerClaim, JournalEntry
from engine.state.store import StateStore


class Journal:
    """The paid answers of one store, and the questions in flight.

    Answers are not cached: memory holds only the questions in flight, and an event for each that callers wait
    for.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self.state = store
        self.clock = clock
        self._in_flight: dict[str, anyio.Event | None] = {}

    def of_node(self, pipeline: str, node: str, run_id: str) -> NodeJournal:
        """Return the journal for one node of one run; its entries record who paid."""
        return NodeJournal(self, pipeline, node, run_id)

    @property
    def in_flight(self) -> int:
        """Questions being paid for right now."""
        return len(self._in_flight)

    def take(self, keys: Collection[str]) -> tuple[set[str], dict[str, anyio.Event]]:
        """Claim the free keys, and return them with the events of the others."""
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
        """Release these keys, answered or not, and wake the callers that wait for them."""
        for key in keys:
            awaited = self._in_flight.pop(key)
            if awaited is not None:
                awaited.set()


class NodeJournal:
    """Implements `engine.contract.journal.AnswerJournal`."""

    def __init__(self, journal: Journal, pipeline: str, node: str, run_id: str) -> None:
        self._journal = journal
        self._store = journal.state
        self._run_id, self._pipeline, self._node = run_id, pipeline, node

    @asynccontextmanager
    async def claim(self, keys: Collection[str]) -> AsyncGenerator[AnswerClaim, None]:
        # Claim first, then look up: an answer stored in between is found, and a later one sets an event that
        # we already hold.
        ours, theirs = self._journal.take(keys)
        claim = _Claim(self, ours, theirs)
        try:
            await claim.look_up(keys)
            yield claim
        finally:
            claim.end()

    async def spent(self) -> float:
        return await self._store.journal_cost(self._run_id, self._node)

    def is_ours(self, entry: JournalEntry) -> bool:
        return (entry.run_id, entry.node) == (self._run_id, self._node)

    async def look_up(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        """Return the stored answers that are valid for this run. Raises `StateError`."""
        found = await self._store.get_journal(keys)
        own = self._run_id
        return {key: entry for key, entry in found.items() if not entry.this_run_only or entry.run_id == own}

    async def store(self, entries: Sequence[JournalEntry], forget: Collection[str]) -> None:
        """Store the answers durably, with time and payer, and delete the keys to forget.

        Not interrupted, since they are paid for. Raises `StateError`.
        """
        now = timestamp(self._journal.clock.now())
        run_id, pipeline, node = self._run_id, self._pipeline, self._node
        signed = [
            replace(entry, run_id=run_id, pipeline=pipeline, node=node, created_at=now) for entry in entries
        ]
        with anyio.CancelScope(shield=True):
            await self._store.put_journal(signed, forget)

    def give_back(self, keys: Collection[str]) -> None:
        """Release these keys."""
        self._journal.give_back(keys)


class _Claim:
    """Implements `engine.contract.journal.AnswerClaim`."""

    def __init__(self, journal: NodeJournal, ours: set[str], theirs: Mapping[str, anyio.Event]) -> None:
        self._journal = journal
        self._taken = set(ours)
        self._theirs = dict(theirs)
        self.answers: dict[str, JournalEntry] = {}
        self.ours: frozenset[str] = frozenset(ours)

    async def look_up(self, keys: Collection[str]) -> None:
        """Look up keys that are already answered, and release these."""
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
        """Release the remaining keys."""
        self._give_back(self._taken)

    def _give_back(self, keys: Collection[str]) -> None:
        ending = self._taken.intersection(keys)
        self._taken -= ending
        self._journal.give_back(ending)
