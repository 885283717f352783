"""Answers that were paid for, and what a component sees of the journal that keeps them.

The journal belongs to the engine (`engine.execution.journal`); a component reaches it as `ctx.journal`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["ANSWER", "AnswerClaim", "AnswerJournal", "JournalEntry", "NoJournal"]

ANSWER: Final = "answer"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One paid answer.

    A component fills in the first group; the journal adds the second.

    Args:
        key: a hash of everything that the answer depends on; the same question has the same key.
        answer: the raw text that was paid for, or the message of a final verdict.
        outcome: `ANSWER`, or the error type of a verdict that was paid for too (`Refused`).
        model: who answered.
        tokens_in, tokens_out, cost_usd: this answer's share of what the calls cost.
        this_run_only: the entry holds for the run that paid, not for others: another may be luckier.
        record: the key of the record that it was paid for; others with the same content only use it.
        run_id, pipeline, node: where it was paid for.
        created_at: UTC, ISO 8601.
    """

    key: str
    answer: str
    outcome: str = ANSWER
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    this_run_only: bool = False
    record: str = ""

    run_id: str = ""
    pipeline: str = ""
    node: str = ""
    created_at: str = ""


class AnswerClaim(Protocol):
    """What became of the keys that a component has asked the journal for.

    Attributes:
        answers: what is known already, by key.
        ours: the keys to pay for now; nobody else in this engine does so until the claim ends.
    """

    @property
    def answers(self) -> Mapping[str, JournalEntry]: ...

    @property
    def ours(self) -> Collection[str]: ...

    async def keep(self, entries: Sequence[JournalEntry]) -> None:
        """Store answers; they are on disk when this returns, and those who wait for them go on.

        Not interrupted by cancellation, since they are paid for. Raises `StateError`.
        """
        ...

    async def others(self) -> None:
        """Wait until all keys that are neither answered nor ours are answered or given up.

        Call it after the claim has ended: who waits for others must not keep others waiting.
        """
        ...


class AnswerJournal(Protocol):
    """Answers that were paid for, as one node of one run sees them."""

    def claim(self, keys: Collection[str]) -> AbstractAsyncContextManager[AnswerClaim]:
        """Look keys up and take on those that nobody has an answer for, or is getting one.

        When the block ends, what is ours and was not kept is given up: the next one to ask pays. Raises
        `StateError`.
        """
        ...

    async def spent(self) -> float:
        """USD that this run has paid at this node for what is in the journal, earlier attempts included."""
        ...

    def is_ours(self, entry: JournalEntry) -> bool:
        """True when this run has paid for the entry at this node, be it in an earlier attempt."""
        ...


class NoJournal:
    """Keeps nothing: the journal of a component that is used without a pipeline."""

    @asynccontextmanager
    async def claim(self, keys: Collection[str]) -> AsyncGenerator[AnswerClaim, None]:
        yield _Unanswered(frozenset(keys))

    async def spent(self) -> float:
        return 0.0

    def is_ours(self, entry: JournalEntry) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Unanswered:
    ours: frozenset[str]

    @property
    def answers(self) -> Mapping[str, JournalEntry]:
        return {}

    async def keep(self, entries: Sequence[JournalEntry]) -> None:
        """Nothing is kept."""

    async def others(self) -> None:
        """There is nobody else."""
