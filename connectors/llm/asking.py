"""Getting an answer for each document of a batch, whatever single calls do.

A pack is asked once. What then has no answer is asked again in smaller packs, and at last alone, so that
each document ends with values, a `RecordError` of its own, or a `TransientError` that is worth another try.
The number of calls is bounded: halving ends at single documents, and each is asked for alone twice at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from connectors.llm.client import ChatClient, ContentRefusedError, PackTooLargeError, Reply
from connectors.llm.documents import Document
from connectors.llm.normalise import normalise
from connectors.llm.packing import PackLimits, pack
from connectors.llm.pricing import Budget, Price, Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.replies import match_slots
from connectors.llm.schema import TargetSchema
from engine.errors import ComponentError, FatalError, RecordError, TransientError
from engine.faultpoints import reached

__all__ = ["Asker", "Fate", "OnUsage"]

Fate: TypeAlias = dict[str, object] | RecordError | TransientError
"""The fields of a document, or why there are none."""

OnUsage: TypeAlias = Callable[[Sequence[int], Usage], None]
"""Called after each call with the places of its documents and what it cost."""

_OUTPUT_TOKENS_PER_FIELD = 16  # for the estimate that a budget reserves; values are short
_MAX_ALONE = 2  # a lone document gets one more try after an unreadable answer


@dataclass(frozen=True, slots=True)
class Asker:
    """What all calls of a node share. `limiter` bounds the calls in flight."""

    chat: ChatClient
    writer: PromptWriter
    schema: TargetSchema
    price: Price
    budget: Budget
    limiter: anyio.CapacityLimiter
    limits: PackLimits
    max_tokens: int
    max_document_tokens: int

    async def ask(self, documents: Sequence[Document], on_usage: OnUsage) -> list[Fate]:
        """The fate of each document, in order. Raises FatalError."""
        conversation = _Conversation(self, documents, on_usage)
        return await conversation.run()


class _Conversation:
    """The calls for one batch."""

    def __init__(self, asker: Asker, documents: Sequence[Document], on_usage: OnUsage) -> None:
        self._asker = asker
        self._documents = documents
        self._on_usage = on_usage
        self._fates: dict[int, Fate] = {}
        self._fatal: FatalError | None = None

    async def run(self) -> list[Fate]:
        asker = self._asker
        asked: list[int] = []
        for index, document in enumerate(self._documents):
            if document.tokens > asker.max_document_tokens:
                reason = f"more than the {asker.max_document_tokens:,} allowed"
                self._fates[index] = _too_long(document, reason)
            else:
                asked.append(index)
        async with anyio.create_task_group() as group:
            for indices in pack(self._documents, asked, asker.limits):
                group.start_soon(self._ask, group, indices)
        if self._fatal is not None:
            raise self._fatal
        return [self._fates[index] for index in range(len(self._documents))]

    async def _ask(self, group: TaskGroup, indices: list[int], alone: int = 0) -> None:
        """Ask for a pack. `alone`: how often its one document was asked for alone before."""
        alone += len(indices) == 1
        try:
            prompt = self._asker.writer.write([self._documents[index] for index in indices])
            reached("packed")
            reply = await self._call(prompt, indices, self._asker.max_tokens)
            if reply.finish_reason == "length":
                reply = await self._call(prompt, indices, self._asker.max_tokens * 2)
        except TransientError as error:
            self._fates.update(dict.fromkeys(indices, error))
        except (PackTooLargeError, ContentRefusedError) as error:
            self._ask_in_halves(group, indices, error)
        except FatalError as error:
            # the first one stops the other calls; it is raised in the caller's task, not in a group
            self._fatal = self._fatal or error
            group.cancel_scope.cancel()
        else:
            self._read(group, indices, prompt, reply, alone)

    async def _call(self, prompt: Prompt, indices: Sequence[int], max_tokens: int) -> Reply:
        asker = self._asker
        estimate = self._estimate(indices)
        async with asker.limiter:
            asker.budget.reserve(estimate)
            cost = 0.0
            try:
                reply = await asker.chat.complete(prompt, max_tokens)
                reached("model_paid")
                cost = asker.price.of(reply.tokens_in, reply.tokens_out)
            finally:
                asker.budget.settle(estimate, cost)
        self._on_usage(indices, Usage(reply.tokens_in, reply.tokens_out, cost))
        return reply

    def _estimate(self, indices: Sequence[int]) -> float:
        asker = self._asker
        tokens_in = asker.writer.tokens_aside + sum(self._documents[index].tokens for index in indices)
        tokens_out = len(indices) * len(asker.schema.fields) * _OUTPUT_TOKENS_PER_FIELD
        return asker.price.of(tokens_in, tokens_out)

    def _read(self, group: TaskGroup, indices: list[int], prompt: Prompt, reply: Reply, alone: int) -> None:
        if reply.finish_reason == "length":
            cut = RecordError("the answer was cut off twice", kind="AnswerTruncated")
            self._ask_in_halves(group, indices, cut)
            return
        if reply.refusal or reply.finish_reason == "content_filter":
            kind = "Refused" if reply.refusal else "ContentFilter"
            refused = RecordError("the model refused the document", kind=kind)
            self._ask_alone(group, indices, refused, _MAX_ALONE if alone else 0)
            return
        answers = match_slots(reply.content, prompt.nonces)
        if answers is None:
            malformed = RecordError("the answer is not a JSON object", kind="MalformedReply")
            self._ask_alone(group, indices, malformed, alone)
            return
        left: list[int] = []
        for slot, index in zip(prompt.nonces, indices, strict=True):
            if slot in answers:
                self._fates[index] = self._fields(answers[slot])
            else:
                left.append(index)
        missing = RecordError("the answer lacks the document, or its nonce is wrong", kind="SlotMissing")
        self._ask_alone(group, left, missing, alone)

    def _fields(self, values: Mapping[str, object]) -> Fate:
        schema = self._asker.schema
        fields = normalise(values, schema)
        missing = [name for name in schema.fields if name in schema.required and name not in fields]
        if missing:
            return RecordError(f"the document does not state {', '.join(missing)}", kind="MissingFields")
        return fields

    def _ask_in_halves(self, group: TaskGroup, indices: list[int], error: ComponentError) -> None:
        """Ask again in two halves; a document that was alone has its fate."""
        if len(indices) > 1:
            middle = len(indices) // 2
            group.start_soon(self._ask, group, indices[:middle])
            group.start_soon(self._ask, group, indices[middle:])
        else:
            self._fates[indices[0]] = self._final(indices[0], error)

    def _ask_alone(self, group: TaskGroup, indices: list[int], error: RecordError, alone: int) -> None:
        """Ask again for each document alone, or end it with `error` after the second time."""
        for index in indices:
            if alone >= _MAX_ALONE:
                self._fates[index] = error
            else:
                group.start_soon(self._ask, group, [index], alone)

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
