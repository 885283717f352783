"""Getting an answer for each document of a batch, whatever single calls do.

What the journal has an answer for is not asked again, and documents that are the same are asked about once.
A pack is asked once. What then has no answer is asked again in smaller packs, and at last alone, so that each
document ends with values, a `RecordError` of its own, or a `TransientError` that is worth another try. The
number of calls is bounded: halving ends at single documents, and each is asked for alone twice at most.

Answers are in the journal before anything is made of them, and so are final failures that were paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from connectors.llm.client import ChatClient, ContentRefusedError, PackTooLargeError, Reply
from connectors.llm.documents import Document
from connectors.llm.normalise import normalise
from connectors.llm.packing import PackLimits, pack
from connectors.llm.pricing import Budget, Price, Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.questions import Questions, answer_entry, values_of, verdict_entry
from connectors.llm.replies import match_slots
from connectors.llm.schema import TargetSchema
from engine.contract.journal import AnswerClaim, AnswerJournal, JournalEntry
from engine.errors import ComponentError, FatalError, RecordError, StateError, TransientError
from engine.fault_injection import reached

__all__ = ["Asker", "Fate", "OnHit", "OnUsage"]

Fate: TypeAlias = dict[str, object] | RecordError | TransientError
"""The fields of a document, or why there are none."""

OnUsage: TypeAlias = Callable[[Sequence[int], Usage], None]
"""Called after each call with the places of its documents and what it cost."""

OnHit: TypeAlias = Callable[[int, Usage], None]
"""Called with the place of a document that got its fate without a call.

The usage is not nothing when an earlier attempt of the run has paid for this very record: what it booked
then is lost, or the record would not have come again.
"""

_OUTPUT_TOKENS_PER_FIELD = 16  # for the estimate that a budget reserves; values are short
_MAX_ALONE = 2  # a lone document gets one more try after an unreadable answer


@dataclass(frozen=True, slots=True)
class Asker:
    """What all calls of a node share. `limiter` bounds the calls in flight."""

    chat: ChatClient
    writer: PromptWriter
    questions: Questions
    journal: AnswerJournal
    schema: TargetSchema
    price: Price
    budget: Budget
    limiter: anyio.CapacityLimiter
    limits: PackLimits
    max_tokens: int
    max_document_tokens: int

    async def ask(self, documents: Sequence[Document], on_usage: OnUsage, on_hit: OnHit) -> list[Fate]:
        """The fate of each document, in order. Raises FatalError, StateError."""
        fates: dict[int, Fate] = {}
        asked: dict[str, list[int]] = {}
        for index, document in enumerate(documents):
            if document.tokens > self.max_document_tokens:
                fates[index] = _too_long(document, f"more than the {self.max_document_tokens:,} allowed")
            else:
                asked.setdefault(await self.questions.key(document), []).append(index)
        while asked:
            async with self.journal.claim(asked.keys()) as claim:
                for key, entry in claim.answers.items():
                    fates |= dict.fromkeys(asked[key], self._known(entry))
                    for index in asked[key]:
                        on_hit(index, self._lost(entry, documents[index]))
                ours = {asked[key][0]: key for key in asked if key in claim.ours}
                paid = await _Conversation(self, documents, ours, on_usage, claim).run()
            for index, fate in paid.items():
                same = asked[ours[index]]
                fates |= dict.fromkeys(same, fate)
                for other in same[1:] if not isinstance(fate, TransientError) else ():
                    on_hit(other, Usage())
            asked = {key: same for key, same in asked.items() if same[0] not in fates}
            if asked:
                await claim.others()
        return [fates[index] for index in range(len(documents))]

    def _known(self, entry: JournalEntry) -> Fate:
        values = values_of(entry)
        return values if isinstance(values, RecordError) else self.fate_of(values)

    def _lost(self, entry: JournalEntry, document: Document) -> Usage:
        """What was paid for this record before and is booked nowhere."""
        if document.record and document.record == entry.record and self.journal.is_ours(entry):
            return Usage(entry.tokens_in, entry.tokens_out, entry.cost_usd)
        return Usage()

    def fate_of(self, values: Mapping[str, object]) -> Fate:
        """What a slot's values mean."""
        fields = normalise(values, self.schema)
        missing = [name for name in self.schema.fields if name in self.schema.required and name not in fields]
        if missing:
            return RecordError(f"the document does not state {', '.join(missing)}", kind="MissingFields")
        return fields


class _Conversation:
    """The calls for some documents of one batch, by their places; each has a question of its own."""

    def __init__(
        self,
        asker: Asker,
        documents: Sequence[Document],
        keys: Mapping[int, str],
        on_usage: OnUsage,
        claim: AnswerClaim,
    ) -> None:
        self._asker = asker
        self._documents = documents
        self._keys = keys
        self._on_usage = on_usage
        self._claim = claim
        self._paid = dict.fromkeys(keys, Usage())
        self._fates: dict[int, Fate] = {}
        self._fatal: FatalError | StateError | None = None

    async def run(self) -> dict[int, Fate]:
        async with anyio.create_task_group() as group:
            for indices in pack(self._documents, list(self._keys), self._asker.limits):
                group.start_soon(self._ask, group, indices)
        if self._fatal is not None:
            raise self._fatal
        return self._fates

    async def _ask(self, group: TaskGroup, indices: list[int], alone: int = 0) -> None:
        """Ask for a pack. `alone`: how often its one document was asked for alone before."""
        try:
            await self._ask_once(group, indices, alone + (len(indices) == 1))
        except (FatalError, StateError) as error:
            # the first one is raised in the caller's task, not in a group. Calls in flight are paid for, so
            # they are waited for, unless their answers cannot be kept; no other call begins
            self._fatal = self._fatal or error
            if isinstance(error, StateError):
                group.cancel_scope.cancel()

    async def _ask_once(self, group: TaskGroup, indices: list[int], alone: int) -> None:
        try:
            prompt = self._asker.writer.write([self._documents[index] for index in indices])
            reached("packed")
            reply = await self._call(prompt, indices, self._asker.max_tokens)
            if reply.finish_reason == "length":
                reply = await self._call(prompt, indices, self._asker.max_tokens * 2)
        except TransientError as error:
            self._fates.update(dict.fromkeys(indices, error))
        except (PackTooLargeError, ContentRefusedError) as error:
            await self._ask_in_halves(group, indices, error)
        else:
            await self._read(group, indices, prompt, reply, alone)

    async def _call(self, prompt: Prompt, indices: Sequence[int], max_tokens: int) -> Reply:
        asker = self._asker
        estimate = self._estimate(indices)
        async with asker.limiter:
            if self._fatal is not None:
                raise self._fatal
            asker.budget.reserve(estimate)
            cost = 0.0
            try:
                reply = await asker.chat.complete(prompt, max_tokens)
                reached("model_paid")
                cost = asker.price.of(reply.tokens_in, reply.tokens_out)
            finally:
                asker.budget.settle(estimate, cost)
        usage = Usage(reply.tokens_in, reply.tokens_out, cost)
        for index, share in zip(indices, usage.shared(len(indices)), strict=True):
            self._paid[index] = self._paid[index].plus(share)
        self._on_usage(indices, usage)
        return reply

    def _estimate(self, indices: Sequence[int]) -> float:
        asker = self._asker
        tokens_in = asker.writer.tokens_aside + sum(self._documents[index].tokens for index in indices)
        tokens_out = len(indices) * len(asker.schema.fields) * _OUTPUT_TOKENS_PER_FIELD
        return asker.price.of(tokens_in, tokens_out)

    async def _read(
        self, group: TaskGroup, indices: list[int], prompt: Prompt, reply: Reply, alone: int
    ) -> None:
        if reply.finish_reason == "length":
            cut = RecordError("the answer was cut off twice", kind="AnswerTruncated")
            await self._ask_in_halves(group, indices, cut)
            return
        if reply.refusal or reply.finish_reason == "content_filter":
            kind = "Refused" if reply.refusal else "ContentFilter"
            refused = RecordError("the model refused the document", kind=kind)
            await self._ask_alone(group, indices, refused, _MAX_ALONE if alone else 0)
            return
        answers = match_slots(reply.content, prompt.nonces)
        if answers is None:
            malformed = RecordError("the answer is not a JSON object", kind="MalformedReply")
            await self._ask_alone(group, indices, malformed, alone)
            return
        found = {
            index: answers[slot]
            for slot, index in zip(prompt.nonces, indices, strict=True)
            if slot in answers
        }
        await self._keep(
            [self._entry(index, answer_entry(self._keys[index], found[index])) for index in found]
        )
        self._fates |= {index: self._asker.fate_of(values) for index, values in found.items()}
        missing = RecordError("the answer lacks the document, or its nonce is wrong", kind="SlotMissing")
        await self._ask_alone(group, [index for index in indices if index not in found], missing, alone)

    def _entry(self, index: int, entry: JournalEntry) -> JournalEntry:
        """The entry with who answered, and what was paid for which record."""
        paid = self._paid[index]
        return replace(
            entry,
            model=self._asker.questions.model,
            record=self._documents[index].record,
            tokens_in=paid.tokens_in,
            tokens_out=paid.tokens_out,
            cost_usd=paid.cost_usd,
        )

    async def _keep(self, entries: Sequence[JournalEntry]) -> None:
        if entries:
            await self._claim.keep(entries)

    async def _ask_in_halves(self, group: TaskGroup, indices: list[int], error: ComponentError) -> None:
        """Ask again in two halves; a document that was alone has its fate."""
        if len(indices) > 1:
            middle = len(indices) // 2
            group.start_soon(self._ask, group, indices[:middle])
            group.start_soon(self._ask, group, indices[middle:])
        else:
            await self._end(indices[0], self._final(indices[0], error))

    async def _ask_alone(self, group: TaskGroup, indices: list[int], error: RecordError, alone: int) -> None:
        """Ask again for each document alone, or end it with `error` after the second time."""
        for index in indices:
            if alone >= _MAX_ALONE:
                await self._end(index, error)
            else:
                group.start_soon(self._ask, group, [index], alone)

    async def _end(self, index: int, error: RecordError) -> None:
        """The document has no answer; when that was paid for, a redo need not pay to hear it again."""
        paid = self._paid[index]
        if paid.tokens_in or paid.tokens_out:
            await self._keep([self._entry(index, verdict_entry(self._keys[index], error))])
        self._fates[index] = error

    def _final(self, index: int, error: ComponentError) -> RecordError:
        if isinstance(error, RecordError):
            return error
        if isinstance(error, PackTooLargeError):
            return _too_long(self._documents[index], "more than the model reads")
        return RecordError(f"the endpoint refused the document: {error}", kind="Refused")


def _too_long(document: Document, reason: str) -> RecordError:
    return RecordError(
        f"the document has some {document.tokens:,} tokens, {reason}; it is never cut", kind="DocumentTooLong"
    )
