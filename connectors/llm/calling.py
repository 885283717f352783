"""Calls within a budget: the length of answers, their cost, and the outcomes of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import anyio

from connectors.llm.answer_length import THOUGHTS, AnswerLength
from connectors.llm.batch_jobs import note_key
from connectors.llm.client import ChatClient, Reply
from connectors.llm.documents import BYTES_PER_TOKEN, Document, PackLimits
from connectors.llm.gate import Gate
from connectors.llm.history import Attempts
from connectors.llm.pricing import Budget, Price, Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.replies import Reading, match_slots, normalise, read_lone
from connectors.llm.schema import RECORDS, TargetSchema
from connectors.llm.tracing import Tracer
from engine.contract.allowances import NoSpending, Spending
from engine.contract.journal import AnswerJournal, JournalEntry
from engine.errors import RecordError, TransientError

Fate: TypeAlias = dict[str, object] | RecordError | TransientError
"""The fields of a document, or the error."""

OnUsage: TypeAlias = Callable[[Sequence[int], Usage], None]
"""Called after each call with the indices of its documents and its cost."""


class OnCount(Protocol):
    """Called with the name and the amount of something to report (`repaired_replies`)."""

    def __call__(self, name: str, amount: float = 1, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the calls of a node. `gate` keeps to the quota, `limiter` bounds the calls in flight.

    `max_tokens` is the limit of an answer; None derives it from the fields and the documents. `by_model`:
    also count costs under the model's name, because several models are used. `given_up`: returns true once
    another model is asked instead, so that waiting calls give up.
    """

    chat: ChatClient
    writer: PromptWriter
    questions: Questions
    journal: AnswerJournal
    schema: TargetSchema
    price: Price
    budget: Budget
    gate: Gate
    limiter: anyio.CapacityLimiter
    limits: PackLimits
    max_tokens: int | None
    max_document_tokens: int
    by_model: bool = False
    given_up: Callable[[], bool] = lambda: False
    on_count: OnCount = lambda name, amount=1: None
    attempts: Attempts = field(default_factory=Attempts)
    spending: Spending = field(default_factory=NoSpending)
    tracer: Tracer | None = None

    def notes(self, questions: Iterable[str]) -> list[str]:
        """Return the journal keys of these questions' batch jobs."""
        return [] if self.chat.jobs is None else [note_key(one) for one in questions]

    def fate_of(self, values: Mapping[str, object]) -> Fate:
        """Return the outcome for the values of a slot."""
        fields = normalise(values, self.schema)
        if self.schema.items and RECORDS in values:
            fields.setdefault(RECORDS, [])  # null is an answer: the document has none
        missing = [name for name in self.schema.fields if name in self.schema.required and name not in fields]
        if missing:
            return RecordError(f"the document does not state {', '.join(missing)}", kind="MissingFields")
        return fields

    def reading(self, content: str, nonces: Mapping[str, str]) -> Reading | None:
        """Return the answers of a reply by slot; a lone slot has no nonce. None if the reply is not JSON."""
        spellings, items = self.schema.spellings, self.schema.items
        if list(nonces.values()) == [""]:
            return read_lone(content, next(iter(nonces)), spellings, items)
        return match_slots(content, nonces, spellings, items)

    def booked(
        self, entry: JournalEntry, document: Document, paid: Usage, prompt: str = "", reply: str = ""
    ) -> JournalEntry:
        """Return the entry with the answering model, and what was paid for which record."""
        return replace(
            entry,
            prompt=prompt,
            reply=reply,
            model=self.questions.model,
            record=document.record,
            tokens_in=paid.tokens_in,
            tokens_out=paid.tokens_out,
            cost_usd=paid.cost_usd,
        )

    def answer_limit(self, documents: Sequence[Document], *, longer: bool) -> int:
        """Return the maximum tokens of an answer. `longer`: an answer was cut off before."""
        limit = self.max_tokens or AnswerLength(self.schema).of(documents)
        return limit * (2 if longer else 1) + (THOUGHTS if self.chat.thinks and not self.max_tokens else 0)

    def estimate(self, documents: Sequence[Document]) -> float:
        """Estimate the cost of a call about these documents, in USD."""
        return self.price.of(self._tokens_in(documents), self._tokens_out(documents))

    def usage_of(self, reply: Reply, documents: Sequence[Document]) -> Usage:
        """Return a call's usage as reported by the endpoint, or else estimated and counted as such."""
        tokens_in, tokens_out, cached = reply.tokens_in, reply.tokens_out, reply.tokens_cached
        if not reply.usage_known:
            self.on_count("calls_without_usage")
            tokens_in = self._tokens_in(documents)
            tokens_out = -(-len(reply.content.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
        if cached:
            self.on_count("tokens_cached", cached)
        return Usage(tokens_in, tokens_out, self.price.of(tokens_in, tokens_out, cached))

    async def call(
        self, prompt: Prompt, documents: Sequence[Document], max_tokens: int, check: Callable[[], None]
    ) -> tuple[Reply, Usage]:
        """Make one call and return its usage too. Raises what `ChatClient.complete` raises.

        `check` is called while the call waits and before it is sent, and may raise.
        """

        def still_wanted() -> None:
            check()
            if self.given_up():
                raise TransientError(f"the model {self.questions.model!r} is unavailable")

        estimate, usage = self.estimate(documents), Usage()
        tokens = self._tokens_in(documents) + self._tokens_out(documents)
        async with self.gate.call(tokens, still_wanted) as passing, self.limiter:
            check()
            self.budget.reserve(estimate)
            try:
                async with self.spending.paying(estimate) as payment:
                    reply = await self._complete(prompt, max_tokens)
                    usage = self.usage_of(reply, documents)
                    payment.usd = usage.cost_usd
                passing.used = usage.tokens_in + usage.tokens_out
                self._count(usage)
            finally:
                self.budget.settle(estimate, usage.cost_usd)
        return reply, usage

    def _count(self, usage: Usage) -> None:
        if self.by_model:
            model = self.questions.model
            self.on_count(f"calls[{model}]")
            self.on_count(f"tokens_in[{model}]", usage.tokens_in)
            self.on_count(f"tokens_out[{model}]", usage.tokens_out)
            self.on_count(f"cost_usd[{model}]", usage.cost_usd)

    async def _complete(self, prompt: Prompt, max_tokens: int) -> Reply:
        sent = self.gate.clock.monotonic()
        try:
            reply = await self.chat.complete(prompt, max_tokens)
        except TransientError as error:
            if not error.throttled:
                self.gate.failed()
            raise
        self.gate.succeeded(self.gate.clock.monotonic() - sent)
        return reply

    def _tokens_in(self, documents: Sequence[Document]) -> int:
        return self.writer.tokens_aside + sum(document.tokens for document in documents)

    def _tokens_out(self, documents: Sequence[Document]) -> int:
        return AnswerLength(self.schema).usual(documents)


def too_long(document: Document, reason: str) -> RecordError:
    """Return the error for a document that is too long for any call."""
    return RecordError(
        f"the document has some {document.tokens:,} tokens, {reason}; documents are never truncated",
        kind="DocumentTooLong",
    )
