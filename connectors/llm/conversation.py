"""The calls for documents of one batch.

Each pack is one call. Documents without an answer are asked about again together, once; then in smaller
packs, and finally alone, so that each document ends with values, its own `RecordError`, or a `TransientError`
to retry. The number of paid answers is bounded, even across retries: halving ends at single documents, each
is asked about alone at most twice, and the history is kept until the document has its outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import anyio
from anyio.abc import TaskGroup

from connectors.llm.calling import Caller, Fate, OnUsage, too_long
from connectors.llm.client import ContentRefusedError, PackTooLargeError, Reply
from connectors.llm.documents import Document, pack
from connectors.llm.history import MAX_ALONE, History
from connectors.llm.prompt import Prompt
from connectors.llm.questions import answer_entry, verdict_entry
from connectors.llm.spelling import whole_text
from engine.contract.journal import AnswerClaim, JournalEntry
from engine.errors import ComponentError, FatalError, RecordError, StateError, TransientError
from engine.fault_injection import reached

MAX_WRITTEN: Final = 1_000  # characters; a dead letter has room for about 2,000


class Conversation:
    """Asks about documents, which are identified by their indices; each has its own question."""

    def __init__(
        self,
        caller: Caller,
        documents: Sequence[Document],
        keys: Mapping[int, str],
        on_usage: OnUsage,
        claim: AnswerClaim,
    ) -> None:
        self._caller = caller
        self._documents = documents
        self._keys = keys
        self._on_usage = on_usage
        self._claim = claim
        self._fates: dict[int, Fate] = {}
        self._traces: dict[int, tuple[str, str]] = {}
        self._fatal: FatalError | StateError | None = None

    async def run(self) -> dict[int, Fate]:
        """Return the outcomes of all documents. Raises FatalError and StateError."""
        async with anyio.create_task_group() as group:
            for indices in self._packs():
                group.start_soon(self._ask, group, indices)
        if self._fatal is not None:
            raise self._fatal
        for index, fate in self._fates.items():
            if not isinstance(fate, TransientError) or self._history(index) == History():
                self._caller.attempts.forget(self._keys[index])
        return self._fates

    def _packs(self) -> list[list[int]]:
        """Divide documents into packs; those asked about before continue where their last try stopped."""
        by_size: dict[int, list[int]] = {}
        for index in self._keys:
            by_size.setdefault(self._history(index).size, []).append(index)
        limits = self._caller.limits
        return [
            indices
            for size, same in by_size.items()
            for indices in pack(self._documents, same, replace(limits, documents=size or limits.documents))
        ]

    def _history(self, index: int) -> History:
        return self._caller.attempts.of(self._keys[index])

    def _of(self, indices: Sequence[int]) -> list[Document]:
        return [self._documents[index] for index in indices]

    async def _ask(self, group: TaskGroup, indices: list[int]) -> None:
        """Ask about a pack."""
        if self._fatal is not None:
            return
        try:
            await self._ask_once(group, indices)
        except (FatalError, StateError) as error:
            # the first one is raised in the caller's task, not in a group. Calls in flight are paid for and
            # finish, unless their answers cannot be stored; no other call begins
            self._fatal = self._fatal or error
            if isinstance(error, StateError):
                group.cancel_scope.cancel()

    async def _ask_once(self, group: TaskGroup, indices: list[int]) -> None:
        try:
            prompt = self._caller.writer.write(self._of(indices))
            asked = zip(prompt.nonces, indices, strict=True)
            prompt = replace(prompt, questions={slot: self._keys[index] for slot, index in asked})
            reached("packed")
            reply = await self._call(prompt, indices)
        except TransientError as error:
            self._fates.update(dict.fromkeys(indices, error))
        except (PackTooLargeError, ContentRefusedError) as error:
            await self._ask_in_halves(group, indices, error)
        else:
            await self._read(group, indices, prompt, reply)

    async def _call(self, prompt: Prompt, indices: Sequence[int]) -> Reply:
        """Return one answer; if it is cut off, ask for a longer one."""
        documents, caller = self._of(indices), self._caller
        longer = any(self._history(index).longer for index in indices)
        limit = caller.answer_limit(documents, longer=longer)
        reply = await self._paid_call(prompt, indices, limit)
        if reply.finish_reason != "length" or longer:
            return reply
        await self._forget_jobs(indices)
        for index in indices:
            self._history(index).longer = True
        more = caller.answer_limit(documents, longer=True)
        return await self._paid_call(prompt, indices, more) if caller.chat.given(more) > limit else reply

    def _check(self) -> None:
        """Raise the error that ended the conversation while a call was waiting."""
        if self._fatal is not None:
            raise self._fatal

    async def _paid_call(self, prompt: Prompt, indices: Sequence[int], max_tokens: int) -> Reply:
        reply, usage = await self._caller.call(prompt, self._of(indices), max_tokens, self._check)
        reached("model_paid")
        if self._caller.tracer is not None:
            self._traces |= zip(indices, self._caller.tracer.trace(prompt, reply), strict=True)
        for index, share in zip(indices, usage.shared(len(indices)), strict=True):
            self._history(index).paid = self._history(index).paid.plus(share)
            self._caller.attempts.book(self._keys[index])
        self._on_usage(indices, usage)
        return reply

    async def _read(self, group: TaskGroup, indices: list[int], prompt: Prompt, reply: Reply) -> None:
        if reply.finish_reason == "length":
            message = "the answer was cut off twice; raise `max_tokens`, or set `split_tokens`"
            cut = RecordError(f"{message}{_wrote(reply)}", kind="AnswerTruncated")
            await self._ask_in_halves(group, indices, cut)
            return
        if reply.refusal or reply.finish_reason == "content_filter":
            await self._refused(group, indices, reply)
            return
        reading = self._caller.reading(reply.content, prompt.nonces)
        if reading is None:
            malformed = RecordError(f"the answer is not a JSON object{_wrote(reply)}", kind="MalformedReply")
            await self._ask_again(group, indices, malformed, lone=prompt.lone)
            return
        slots = zip(prompt.nonces, indices, strict=True)
        found = {index: reading.answers[slot] for slot, index in slots if slot in reading.answers}
        if reading.repaired and found:
            self._caller.on_count("repaired_replies")
        await self._keep(
            [self._entry(index, answer_entry(self._keys[index], found[index])) for index in found]
        )
        self._fates |= {index: self._caller.fate_of(values) for index, values in found.items()}
        rest = [index for index in indices if index not in found]
        if rest:
            lacks = "any field" if prompt.lone else "the document, or its nonce is wrong"
            missing = RecordError(f"the answer lacks {lacks}{_wrote(reply)}", kind="SlotMissing")
            await self._ask_again(group, rest, missing, lone=prompt.lone)

    async def _refused(self, group: TaskGroup, indices: list[int], reply: Reply) -> None:
        kind = "Refused" if reply.refusal else "ContentFilter"
        refused = RecordError(f"the model refused the document{_wrote(reply)}", kind=kind)
        if len(indices) == 1:
            await self._end(indices[0], refused, by_model=True)
        elif reply.refusal and not self._were_together(indices):
            await self._ask_again(group, indices, refused, lone=False)  # models refuse at random, filters not
        else:
            await self._ask_in_halves(group, indices, refused)

    def _entry(self, index: int, entry: JournalEntry) -> JournalEntry:
        """Return the entry with what was paid, and its trace if there is one."""
        trace = self._traces.get(index, ("", ""))
        return self._caller.booked(entry, self._documents[index], self._history(index).paid, *trace)

    async def _keep(self, entries: Sequence[JournalEntry]) -> None:
        if entries:
            await self._claim.keep(entries, self._caller.notes(one.key for one in entries))

    async def _forget_jobs(self, indices: Sequence[int]) -> None:
        """Forget batch jobs with useless answers, so that no later attempt reads and books them again."""
        notes = self._caller.notes(self._keys[index] for index in indices)
        if notes:
            await self._claim.keep([], notes)

    async def _ask_in_halves(self, group: TaskGroup, indices: list[int], error: ComponentError) -> None:
        """Ask again in two halves; a document that was alone is finished."""
        if len(indices) == 1:
            await self._end(indices[0], self._final(indices[0], error))
            return
        await self._forget_jobs(indices)
        middle = len(indices) // 2
        for half in (indices[:middle], indices[middle:]):
            for index in half:
                self._history(index).size, self._history(index).longer = len(half), False
            group.start_soon(self._ask, group, half)

    def _were_together(self, indices: Sequence[int]) -> bool:
        return any(self._history(index).together for index in indices)

    async def _ask_again(
        self, group: TaskGroup, indices: list[int], error: RecordError, *, lone: bool
    ) -> None:
        """Ask again about documents with unreadable answers: once together, then each alone.

        `lone`: the answer was about a single document, which ends with `error` after the second one.
        """
        await self._forget_jobs(indices)
        if len(indices) > 1 and not self._were_together(indices):
            for index in indices:
                history = self._history(index)
                history.together, history.size, history.longer = True, len(indices), False
            group.start_soon(self._ask, group, indices)
            return
        for index in indices:
            history = self._history(index)
            history.alone += lone
            history.size, history.longer = 1, False
            if history.alone >= MAX_ALONE:
                await self._end(index, error)
            else:
                group.start_soon(self._ask, group, [index])

    async def _end(self, index: int, error: RecordError, *, by_model: bool = False) -> None:
        """End a document without an answer; a paid failure is stored, so that a replay need not pay again."""
        paid = self._history(index).paid
        if paid.tokens_in or paid.tokens_out:
            await self._keep([self._entry(index, verdict_entry(self._keys[index], error, by_model=by_model))])
        self._fates[index] = error

    def _final(self, index: int, error: ComponentError) -> RecordError:
        if isinstance(error, RecordError):
            return error
        if isinstance(error, PackTooLargeError):
            return too_long(self._documents[index], f"more than the model reads ({error})")
        kind = error.kind if isinstance(error, ContentRefusedError) else "RequestRefused"
        return RecordError(f"the endpoint rejected the document: {error}", kind=kind)


def _wrote(reply: Reply) -> str:
    """Return an unusable answer for a dead letter and the journal, shortened."""
    text = whole_text(reply.refusal or reply.content)
    if not text:
        return "; it is empty"
    return f"; the model wrote: {text if len(text) <= MAX_WRITTEN else text[: MAX_WRITTEN - 1] + '…'}"
