"""Write the messages of a call.

The system message comes first and is the same for all calls of a node, so that a provider can cache it. The
one user message has a text part for each document, or for a document with images an opening text part, the
images and a closing text part:

    <document slot="r1" nonce="4f2a91c0" name="memo_001.txt">
    …text…
    </document>
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from secrets import token_hex
from typing import Any, TypeAlias

from connectors.llm.documents import Document
from connectors.llm.schema import TargetSchema
from connectors.objects.documents import ImagePart, TextPart

__all__ = ["Prompt", "PromptWriter"]

JsonObject: TypeAlias = dict[str, Any]

_CLOSING = re.compile(r"<(\s*)/(\s*document)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call: its messages, its answer's schema, and the nonce of each slot in document order."""

    messages: list[JsonObject]
    response_format: JsonObject
    nonces: Mapping[str, str]


class PromptWriter:
    """Writes the prompts of one node."""

    def __init__(self, schema: TargetSchema, instructions: str) -> None:
        self._schema = schema
        self._instructions = instructions.strip()
        self._system = _template("system.txt").format(name=schema.name, fields=schema.describe()).strip()
        if self._instructions:
            self._system += f"\n\nInstructions:\n{self._instructions}"

    def write(self, documents: Sequence[Document]) -> Prompt:
        """Write the prompt for documents that share their instructions."""
        # unguessable, so that no document can speak for its neighbour
        nonces = {f"r{number}": token_hex(4) for number in range(1, len(documents) + 1)}
        system = self.system(documents[0].instructions)
        content: list[JsonObject] = []
        for (slot, nonce), document in zip(nonces.items(), documents, strict=True):
            content += _document_parts(slot, nonce, document)
        messages: list[JsonObject] = [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": content})
        schema = {"name": self._schema.name, "strict": True, "schema": self._schema.slots(list(nonces))}
        return Prompt(messages, {"type": "json_schema", "json_schema": schema}, nonces)

    def system(self, instructions: str = "") -> str:
        """Return the system message for documents with these instructions."""
        own = instructions.strip()
        if own and own != self._instructions:
            return f"{self._system}\n\nInstructions for these documents:\n{own}"
        return self._system

    @property
    def tokens_aside(self) -> int:
        """Estimated tokens of the fixed part of every call."""
        return len(self._system.encode()) // 4


def _document_parts(slot: str, nonce: str, document: Document) -> list[JsonObject]:
    name = html.escape(" ".join(document.name.split()), quote=True)
    text = f'<document slot="{slot}" nonce="{nonce}" name="{name}">\n'
    parts: list[JsonObject] = []
    for part in document.parts:
        if isinstance(part, TextPart):
            text += _CLOSING.sub(r"<\1\\/\2", part.text) + "\n"
        elif isinstance(part, ImagePart):
            parts += [_text(text)] if text else []
            parts.append({"type": "image_url", "image_url": {"url": part.url}})
            text = ""
    return [*parts, _text(f"{text}</document>")]


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


@cache
def _template(name: str) -> str:
    return files("connectors.llm").joinpath("prompts", name).read_text(encoding="utf-8")
