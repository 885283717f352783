"""Documents to send to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from connectors.llm.settings import BYTES_PER_TOKEN, TOKENS_PER_IMAGE
from connectors.llm.surrogates import is_whole
from connectors.objects.documents import DocumentPart, ImagePart, TextPart, is_blank

__all__ = ["Document"]


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
        """False if some of its text cannot be sent unchanged, see `connectors.llm.surrogates`."""
        return all(is_whole(part.text) for part in self.parts if isinstance(part, TextPart))
