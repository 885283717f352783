"""Divide documents into packs, one per call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectors.llm.documents import Document

__all__ = ["PackLimits", "pack"]


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
