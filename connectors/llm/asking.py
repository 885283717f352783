"""Get an answer for each document of a batch, despite failing calls.

Documents with an answer in the journal are not asked about again, and equal documents only once. The others
are asked about in packs, see `connectors.llm.conversation`.

Answers, and final failures that were paid for, are in the journal before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from connectors.llm.batch_jobs import Ordered
from connectors.llm.calling import Caller, Fate, OnUsage, too_long
from connectors.llm.completion import Reply, read_body, read_completion
from connectors.llm.conversation import Conversation
from connectors.llm.documents import Document
from connectors.llm.pricing import Usage
from connectors.llm.questions import answer_entry, values_of
from engine.contract.journal import AnswerClaim, JournalEntry
from engine.errors import RecordError, TransientError

__all__ = ["Asker", "Fate", "OnHit", "OnUsage"]

OnHit: TypeAlias = Callable[[int, Usage], None]
"""Called with the index of a document whose outcome needed no call.

The usage is not zero if an earlier attempt of the run paid for this record: that attempt was lost before it
could book the cost, or the record would not be processed again.
"""


@dataclass(frozen=True, slots=True)
class Asker(Caller):
    """Answers for batches of documents."""

    async def ask(self, documents: Sequence[Document], on_usage: OnUsage, on_hit: OnHit) -> list[Fate]:
        """Return the outcome of each document, in order. Raises FatalError and StateError."""
        fates: dict[int, Fate] = {}
        asked: dict[str, list[int]] = {}
        for index, document in enumerate(documents):
            if document.tokens > self.max_document_tokens:
                fates[index] = too_long(document, f"more than the {self.max_document_tokens:,} allowed")
            else:
                asked.setdefault(await self.questions.key(document), []).append(index)
        while asked:
            async with self.journal.claim(asked.keys()) as claim:
                for key, entry in claim.answers.items():
                    fates |= dict.fromkeys(asked[key], self._known(entry))
                    for index in asked[key]:
                        on_hit(index, self._lost(entry, documents[index]))
                ours = {asked[key][0]: key for key in asked if key in claim.ours}
                paid = await self._ordered(documents, ours, on_usage, claim)
                rest = {index: key for index, key in ours.items() if index not in paid}
                paid |= await Conversation(self, documents, rest, on_usage, claim).run()
            for index, fate in paid.items():
                same = asked[ours[index]]
                fates |= dict.fromkeys(same, fate)
                for other in same[1:] if not isinstance(fate, TransientError) else ():
                    on_hit(other, Usage())
            asked = {key: same for key, same in asked.items() if same[0] not in fates}
            if asked:
                await claim.others()
        return [fates[index] for index in range(len(documents))]

    async def _ordered(
        self, documents: Sequence[Document], keys: Mapping[int, str], on_usage: OnUsage, claim: AnswerClaim
    ) -> dict[int, Fate]:
        """Return outcomes from batch jobs of earlier attempts, and store their answers."""
        if self.chat.jobs is None or not keys:
            return {}
        try:
            ordered = await self.chat.jobs.ordered(keys.values())
        except TransientError as error:
            return dict.fromkeys(keys, error)
        fates: dict[int, Fate] = {}
        for index, key in keys.items():
            if key not in ordered:
                continue
            values, reply = self._values(ordered[key])
            if reply is None:
                continue  # it was not answered, so it cost nothing
            usage = self.usage_of(reply, [documents[index]]).shared(ordered[key].slots)[0]
            self.budget.settle(0.0, usage.cost_usd)
            self.spending.book(usage.cost_usd)
            self.attempts.book(key)
            on_usage([index], usage)
            if values is None:
                self.attempts.of(key).paid = self.attempts.of(key).paid.plus(usage)
                await claim.keep([], self.notes([key]))
            else:
                entry = self.booked(answer_entry(key, values), documents[index], usage)
                await claim.keep([entry], self.notes([key]))
                fates[index] = self.fate_of(values)
        return fates

    def _values(self, ordered: Ordered) -> tuple[Mapping[str, object] | None, Reply | None]:
        """Return the values for a slot of a line, and its reply; None for missing ones."""
        status, _, content = ordered.line
        try:
            reply = read_completion(read_body(content)) if status < HTTPStatus.MULTIPLE_CHOICES else None
        except ValueError:
            return None, None
        if not isinstance(reply, Reply):
            return None, None
        if reply.refusal or reply.finish_reason in ("length", "content_filter"):
            return None, reply  # it may be incomplete
        reading = self.reading(reply.content, {ordered.slot: ordered.nonce})
        return (reading.answers.get(ordered.slot) if reading else None), reply

    async def known(self, documents: Sequence[Document]) -> dict[int, tuple[Fate, Usage]]:
        """Return outcomes from the journal by index, with the arguments for `OnHit`. Raises StateError."""
        keys = [await self.questions.key(one) for one in documents]
        async with self.journal.claim(set(keys)) as claim:
            found = dict(claim.answers)
        return {
            index: (self._known(found[key]), self._lost(found[key], documents[index]))
            for index, key in enumerate(keys)
            if key in found
        }

    def _known(self, entry: JournalEntry) -> Fate:
        values = values_of(entry)
        return values if isinstance(values, RecordError) else self.fate_of(values)

    def _lost(self, entry: JournalEntry, document: Document) -> Usage:
        """Return what was paid for this record before but not booked."""
        if self.attempts.is_booked(entry.key):
            return Usage()
        if document.record and document.record == entry.record and self.journal.is_ours(entry):
            return Usage(entry.tokens_in, entry.tokens_out, entry.cost_usd)
        return Usage()
