"""Get an answer for each document of a batch, despite failing calls.

What the journal has an answer for is not asked again, and documents that are the same are asked about once.
The others are asked about in packs, see `connectors.llm.conversation`.

Answers are in the journal before anything is made of them, and so are final failures that were paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from connectors.llm.calling import Caller, Fate, OnUsage, too_long
from connectors.llm.conversation import Conversation
from connectors.llm.documents import Document
from connectors.llm.pricing import Usage
from connectors.llm.questions import values_of
from engine.contract.journal import JournalEntry
from engine.errors import RecordError, TransientError

__all__ = ["Asker", "Fate", "OnHit", "OnUsage"]

OnHit: TypeAlias = Callable[[int, Usage], None]
"""Called with the place of a document that got its fate without a call.

The usage is not nothing when an earlier attempt of the run has paid for this very record: what it booked
then is lost, or the record would not have come again.
"""


@dataclass(frozen=True, slots=True)
class Asker(Caller):
    """Answers for batches of documents."""

    async def ask(self, documents: Sequence[Document], on_usage: OnUsage, on_hit: OnHit) -> list[Fate]:
        """Return the outcome of each document, in order. Raises FatalError, StateError."""
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
                paid = await Conversation(self, documents, ours, on_usage, claim).run()
            for index, fate in paid.items():
                same = asked[ours[index]]
                fates |= dict.fromkeys(same, fate)
                for other in same[1:] if not isinstance(fate, TransientError) else ():
                    on_hit(other, Usage())
            asked = {key: same for key, same in asked.items() if same[0] not in fates}
            if asked:
                await claim.others()
        return [fates[index] for index in range(len(documents))]

    async def known(self, documents: Sequence[Document]) -> dict[int, tuple[Fate, Usage]]:
        """The outcomes that the journal has, by place, each with what `OnHit` hears. Raises StateError."""
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
        """What was paid for this record before and is booked nowhere."""
        if self.attempts.is_booked(entry.key):
            return Usage()
        if document.record and document.record == entry.record and self.journal.is_ours(entry):
            return Usage(entry.tokens_in, entry.tokens_out, entry.cost_usd)
        return Usage()
