"""Journal keys of questions, and journal entries of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import anyio.to_thread

from connectors.llm.documents import Document
from connectors.llm.json_text import parse, written
from connectors.llm.prompt import PromptWriter
from connectors.llm.schema import TargetSchema
from connectors.objects.documents import TextPart
from engine.contract.journal import ANSWER, JournalEntry
from engine.errors import FatalError, RecordError

_FORMAT: Final = 2
"""Incremented when a change of the user message or of reading replies makes old answers invalid."""


class Questions:
    """Computes the journal key of the question about a document.

    Equal keys mean the same parts in the same order, prompt, instructions, model, target schema, temperature
    and other request fields (`extras`). A document's name and the other documents of its call do not matter.
    """

    def __init__(
        self,
        writer: PromptWriter,
        schema: TargetSchema,
        model: str,
        temperature: float | None,
        extras: Mapping[str, object] | None = None,
    ) -> None:
        self.model = model
        self._writer = writer
        self._settings = [_FORMAT, model, temperature, schema.slots(["r1"]), *([extras] if extras else [])]

    async def key(self, document: Document) -> str:
        """Return the key as hexadecimal SHA-256; images are hashed in a thread."""
        if document.images:
            return await anyio.to_thread.run_sync(self._key, document)
        return self._key(document)

    def _key(self, document: Document) -> str:
        digest = sha256(json.dumps([*self._settings, self._writer.system(document.instructions)]).encode())
        for part in document.parts:
            if isinstance(part, TextPart):
                kind, content = "text", part.text
            else:
                kind, content = "image", part.url
            data = content.encode("utf-8", "surrogatepass")
            digest.update(f"\n{kind} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()


def answer_entry(key: str, values: Mapping[str, object]) -> JournalEntry:
    """Create the journal entry of an answered slot."""
    return JournalEntry(key, written(values))


def verdict_entry(key: str, error: RecordError, *, by_model: bool) -> JournalEntry:
    """Create the journal entry of a paid document without an answer.

    A refusal by the model would be repeated; a new run retries other failures, which may not recur.
    """
    return JournalEntry(key, str(error), error.kind, this_run_only=not by_model)


def values_of(entry: JournalEntry) -> Mapping[str, object] | RecordError:
    """Decode an entry of `answer_entry` or `verdict_entry`.

    Raises:
        FatalError: the entry is damaged.
    """
    if entry.outcome != ANSWER:
        return RecordError(entry.answer, kind=entry.outcome)
    try:
        values = parse(entry.answer)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise FatalError(
            f"the journal's answer {entry.key[:12]} is damaged: purge the journal to ask the model again"
        )
    return values
