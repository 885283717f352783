"""Close dead letters of earlier runs whose records a run delivers or replays."""

from __future__ import annotations

from collections.abc import Collection

from engine.contract.component import Kind
from engine.contract.dead_letter import DeadLetter
from engine.dead_letters.replay import ReplaySource, letter_id
from engine.flow.open_dead_letters import OpenDeadLetters
from engine.flow.segment import Runtime
from engine.plan.model import Plan
from engine.state.records import DeadLetterFilter
from engine.state.store import StateStore

MAX_OPEN_LETTERS = 2_000  # maximum of earlier runs' dead letters that a run tracks


class LateDeliveries:
    """Tracks deliveries of one run that earlier runs of its pipeline could not make."""

    def __init__(self, store: StateStore, plan: Plan, run_id: str) -> None:
        self._store = store
        self._plan = plan
        self._run_id = run_id
        self._watched: list[OpenDeadLetters] = []
        self._replays: list[ReplaySource] = []
        self._replayed: list[DeadLetter] = []

    async def watch(self, runtimes: Collection[Runtime]) -> None:
        """Let every sink note which open dead letters its deliveries close. Raises StateError."""
        self._replays = [one.component for one in runtimes if isinstance(one.component, ReplaySource)]
        replayed = {place for source in self._replays for place in source.digests()}  # closed once settled
        where = DeadLetterFilter(pipeline=self._plan.pipeline, status="open", limit=MAX_OPEN_LETTERS)
        letters = [one for one in await self._store.dead_letters(where) if one.run_id != self._run_id]
        letters = [one for one in letters if letter_id(one) not in replayed]
        if not letters:
            return
        for runtime in runtimes:
            if runtime.node.kind is Kind.SINK:
                name = runtime.node.name
                before = self._plan.ancestors(name) | {name}
                watched = OpenDeadLetters(letter for letter in letters if letter.node in before)
                runtime.open_dead_letters = watched
                self._watched.append(watched)

    async def close(self) -> None:
        """Close the dead letters of records delivered or replayed since the last call. Raises StateError.

        To be called before their positions are committed: a resume does not deliver them again.
        """
        for source in self._replays:
            self._replayed += source.settled()
        await self._mark(self._replayed, "replayed")
        for one in self._watched:
            await self._mark(one.delivered, "recovered")

    async def _mark(self, letters: list[DeadLetter], status: str) -> None:
        """Set the status of these letters, and remove them from the list once it is stored."""
        if some := list(letters):
            await self._store.mark_dead_letters(some, status)
            del letters[: len(some)]
