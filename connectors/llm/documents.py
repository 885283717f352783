"""Documents to send to a model, and their division into packs, one per call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from connectors.llm.spelling import is_whole
from connectors.objects.documents import DocumentPart, ImagePart, TextPart, is_blank

BYTES_PER_TOKEN: Final = 4
"""UTF-8 bytes per token: a documented estimate, because exact vocabularies are downloads. It is close for
English and too low by up to two for other scripts, so limits should leave room."""

TOKENS_PER_IMAGE: Final = 1_000
"""Estimated tokens of an image; a page of 1024 x 1024 pixels takes 765 to 1,105 at OpenAI."""


@dataclass(frozen=True)
class Document:
    """One document to extract from.

    Args:
        name: file name or address, shown to the model.
        parts: text and images in reading order, see `connectors.objects.documents.parts`.
        instructions: additional instructions for this document.
        record: the key of its record, if it has one.
    """

    name: str
    parts: Sequence[DocumentPart]
    instructions: str = ""
    record: str = ""

    @classmethod
    def of_text(cls, name: str, text: str, instructions: str = "") -> Document:
        """Create a document of one text."""
        return cls(name, [] if is_blank(text) else [TextPart(text)], instructions)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(isinstance(part, ImagePart) for part in self.parts)

    @cached_property
    def tokens(self) -> int:
        """Estimated prompt tokens: 4 bytes of text count as one, an image as 1,000."""
        texts = (part.text for part in self.parts if isinstance(part, TextPart))
        text = sum(len(one.encode("utf-8", "surrogatepass")) for one in texts)
        return -(-text // BYTES_PER_TOKEN) + self.images * TOKENS_PER_IMAGE

    @property
    def text(self) -> str:
        """Its text parts, joined by line breaks; spans of values refer to it."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def is_whole(self) -> bool:
        """False if some of its text cannot be sent unchanged, see `connectors.llm.spelling`."""
        return all(is_whole(part.text) for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class PackLimits:
    """Limits of a pack: documents, estimated tokens and images."""

    documents: int
    tokens: int
    images: int


def pack(documents: Sequence[Document], indices: Sequence[int], limits: PackLimits) -> list[list[int]]:
    """Divide the documents at `indices` into packs of indices, in order.

    Documents share a pack only if they have the same instructions. One that exceeds a limit alone gets its
    own pack.
    """
    packs: list[list[int]] = []
    open_packs: dict[str, _OpenPack] = {}
    for index in indices:
        document = documents[index]
        current = open_packs.get(document.instructions)
        if current is None or not current.takes(document, limits):
            current = open_packs[document.instructions] = _OpenPack()
            packs.append(current.indices)
        current.add(index, document)
    return packs


class _OpenPack:
    def __init__(self) -> None:
        self.indices: list[int] = []
        self._tokens = 0
        self._images = 0

    def takes(self, document: Document, limits: PackLimits) -> bool:
        return (
            len(self.indices) < limits.documents
            and self._tokens + document.tokens <= limits.tokens
            and self._images + document.images <= limits.images
        )

    def add(self, index: int, document: Document) -> None:
        self.indices.append(index)
        self._tokens += document.tokens
        self._images += document.images
