"""Write the messages of a call.

The system message comes first and is the same for all calls of a node, so that a provider can cache it. The
user message holds the documents, as one text or, with images, as alternating text and image parts:

    <document slot="r1" nonce="4f2a91c0" name="memo_001.txt">
    …text…
    </document>

A single document has no nonce: its answer cannot be confused with another's.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from secrets import token_bytes
from typing import Any, Final, TypeAlias

from connectors.llm.documents import Document
from connectors.llm.schema import TargetSchema
from connectors.llm.spelling import whole_text
from connectors.objects.documents import ImagePart, TextPart

JsonObject: TypeAlias = dict[str, Any]

LONE_SLOT: Final = "r1"
_CLOSING = re.compile(r"<(\s*)/(\s*document)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call: its messages, its answer's schema, and the nonce of each slot in document order.

    A single document has the nonce "". `user` is text, or parts if there are images. `questions` are the
    journal's keys by slot, once known.
    """

    system: str
    user: str | list[JsonObject]
    name: str
    schema: JsonObject
    nonces: Mapping[str, str]
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[JsonObject]:
        """The user message as parts."""
        return [_text(self.user)] if isinstance(self.user, str) else self.user

    @property
    def lone(self) -> bool:
        """True when it asks about one document."""
        return len(self.nonces) == 1


class PromptWriter:
    """Writes the prompts of one node."""

    def __init__(self, schema: TargetSchema, instructions: str) -> None:
        self._schema = schema
        self._instructions = whole_text(instructions.strip())
        self._packed = self._system_of("system.txt")
        self._lone = self._system_of("lone.txt")
        # unguessable, so that no document can forge an answer for its neighbour
        self._secret = token_bytes(32)

    def write(self, documents: Sequence[Document]) -> Prompt:
        """Write the prompt for documents with the same instructions; equal documents give an equal prompt."""
        lone = len(documents) == 1
        nonces = {LONE_SLOT: ""} if lone else self._nonces(documents)
        parts: list[JsonObject] = []
        for (slot, nonce), document in zip(nonces.items(), documents, strict=True):
            parts += _document_parts(slot, nonce, document)
        system = self._with_instructions(self._lone if lone else self._packed, documents[0].instructions)
        texts = [part["text"] for part in parts if part["type"] == "text"]
        user = "\n".join(texts) if len(texts) == len(parts) else parts
        schema = self._schema.record() if lone else self._schema.slots(list(nonces))
        return Prompt(system, user, self._schema.name, schema, nonces)

    def _nonces(self, documents: Sequence[Document]) -> dict[str, str]:
        pack = blake2b(key=self._secret, digest_size=16)
        for document in documents:
            for part in document.parts:
                text = part.text if isinstance(part, TextPart) else part.url
                pack.update(text.encode("utf-8", "surrogatepass") + b"\0")
        of_pack = pack.digest()
        slots = [f"r{number}" for number in range(1, len(documents) + 1)]
        return {
            slot: blake2b(of_pack + slot.encode(), key=self._secret, digest_size=4).hexdigest()
            for slot in slots
        }

    def system(self, instructions: str = "") -> str:
        """Return the system message for several documents with these instructions."""
        return self._with_instructions(self._packed, instructions)

    def _system_of(self, template: str) -> str:
        text = _template(template).format(name=self._schema.name, fields=self._schema.describe()).strip()
        return f"{text}\n\nInstructions:\n{self._instructions}" if self._instructions else text

    def _with_instructions(self, system: str, instructions: str) -> str:
        own = whole_text(instructions.strip())
        if own and own != self._instructions:
            return f"{system}\n\nInstructions for these documents:\n{own}"
        return system

    @property
    def tokens_aside(self) -> int:
        """Return the estimated tokens of the fixed part of every call."""
        return len(self._packed.encode()) // 4


def _document_parts(slot: str, nonce: str, document: Document) -> list[JsonObject]:
    name = html.escape(whole_text(" ".join(document.name.split())), quote=True)
    echoed = f' nonce="{nonce}"' if nonce else ""
    text = f'<document slot="{slot}"{echoed} name="{name}">\n'
    parts: list[JsonObject] = []
    for part in document.parts:
        if isinstance(part, TextPart):
            text += _CLOSING.sub(r"<\1\\/\2", whole_text(part.text)) + "\n"
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
