"""Paid answers, and a component's view of the journal.

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
"""Outcome of an entry without an answer yet that tells where one is being computed. It is neither listed nor
purged while the answer may still arrive."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One paid answer.

    A component fills in the first group; the journal adds the second.

    Args:
        key: a hash of everything that the answer depends on; the same question has the same key.
        answer: the raw text of the answer, or the message of a final error.
        outcome: `ANSWER`, `PENDING`, or the type of a final error that was paid for too (`Refused`).
        model: the model that answered.
        tokens_in, tokens_out, cost_usd: this answer's share of the usage and cost of its calls.
        this_run_only: the entry is valid only in the run that paid; another run asks again.
        record: the key of the record that paid; others with the same content reuse the answer.
        prompt, reply: prompt and reply of the call, redacted, if the component traces its calls; else "".
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
        answers: known answers, by key.
        ours: the keys to pay for now; until the claim ends, no other caller in this engine pays for them.
    """

    @property
    def answers(self) -> Mapping[str, JournalEntry]: ...

    @property
    def ours(self) -> Collection[str]: ...

    async def keep(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        """Store answers durably and wake the callers that wait for them.

        `forget`: keys of entries to delete in the same transaction. Cancellation does not interrupt it, since
        the answers are paid for. Raises `StateError`.
        """

    async def others(self) -> None:
        """Wait until other claims have stored or released their keys.

        Call it after the claim has ended, so that two callers never wait for each other.
        """


class AnswerJournal(Protocol):
    """Paid answers as seen by one node of one run."""

    def claim(self, keys: Collection[str]) -> AbstractAsyncContextManager[AnswerClaim]:
        """Look up keys and claim those that are neither answered nor being answered.

        When the block ends, claimed keys without an answer are released: the next caller pays. Raises
        `StateError`.
        """

    async def spent(self) -> float:
        """Return the USD that this run has paid at this node, including earlier attempts."""

    def is_ours(self, entry: JournalEntry) -> bool:
        """Return whether this run paid for the entry at this node, in any attempt."""


class NoJournal:
    """The journal without a pipeline: nothing is stored."""

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
