"""Paid answers, and the journal as a component sees it.

The journal belongs to the engine (`engine.execution.journal`); a component reaches it as `ctx.journal`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["ANSWER", "PENDING", "AnswerClaim", "AnswerJournal", "JournalEntry", "NoJournal"]

ANSWER: Final = "answer"

PENDING: Final = "BatchPending"
"""Outcome of an entry that is no answer yet, but says where one is being made. It is neither listed nor
purged while the answer may still come."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One paid answer.

    A component fills in the first group; the journal adds the second.

    Args:
        key: a hash of everything that the answer depends on; the same question has the same key.
        answer: the raw text that was paid for, or the message of a final verdict.
        outcome: `ANSWER`, `PENDING`, or the error type of a verdict that was paid for too (`Refused`).
        model: who answered.
        tokens_in, tokens_out, cost_usd: this answer's share of what the calls cost.
        this_run_only: the entry holds for the run that paid, not for others: another may be luckier.
        record: the key of the record that it was paid for; others with the same content only use it.
        prompt, reply: of the call, redacted, where the component traces its calls; else "".
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
    prompt: str = ""
    reply: str = ""

    run_id: str = ""
    pipeline: str = ""
    node: str = ""
    created_at: str = ""


class AnswerClaim(Protocol):
    """The result of asking the journal for keys.

    Attributes:
        answers: what is known already, by key.
        ours: the keys to pay for now; no other caller in this engine pays for them until the claim ends.
    """

    @property
    def answers(self) -> Mapping[str, JournalEntry]: ...

    @property
    def ours(self) -> Collection[str]: ...

    async def keep(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        """Store answers durably and wake those who wait for them.

        `forget`: keys of entries to delete in the same transaction. Not interrupted by cancellation, since
        the answers are paid for. Raises `StateError`.
        """
        ...

    async def others(self) -> None:
        """Wait until other holders have answered or given up their keys.

        Call it after the claim has ended: who waits for others must not keep others waiting.
        """
        ...


class AnswerJournal(Protocol):
    """Paid answers as seen by one node of one run."""

    def claim(self, keys: Collection[str]) -> AbstractAsyncContextManager[AnswerClaim]:
        """Look up keys and claim those that are neither answered nor being answered.

        When the block ends, what is ours and was not kept is given up: the next one to ask pays. Raises
        `StateError`.
        """
        ...

    async def spent(self) -> float:
        """Return the USD that this run has paid at this node, including earlier attempts."""
        ...

    def is_ours(self, entry: JournalEntry) -> bool:
        """Return whether this run paid for the entry at this node, in any attempt."""
        ...


class NoJournal:
    """The journal of a component without a pipeline: nothing is stored."""

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

    async def keep(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        """Keep nothing."""

    async def others(self) -> None:
        """Return at once: there are no others."""
