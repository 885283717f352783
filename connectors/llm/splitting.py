"""Long documents in parts: where they are divided.

Parts overlap, and begin and end between paragraphs where they can, else between lines, sentences or words.
Together they hold the whole document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from connectors.llm.documents import Document
from connectors.llm.settings import BYTES_PER_TOKEN, TOKENS_PER_IMAGE
from connectors.objects.documents import DocumentPart, TextPart

__all__ = ["divided"]

_BORDERS: Final = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?\u061f\u06d4\u0964])\s+|(?<=[\u3002\uff01\uff1f])\s*"),
    re.compile(r"\s+"),
    re.compile(r"(?<=[,;|}\]\u060c\u3001\uff0c\uff1b])(?!\d)"),
)
_IMAGE: Final = TOKENS_PER_IMAGE * BYTES_PER_TOKEN
_SHORTEST: Final = 64  # bytes of a piece that is cut anywhere, for the sake of an overlap


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a document, or of one of its texts: the `place`th. `size` is in bytes."""

    part: DocumentPart
    place: int
    size: int


def divided(document: Document, tokens: int, overlap: int) -> list[Document]:
    """The document in parts of at most so many estimated tokens; itself when it has no more.

    Args:
        overlap: tokens of the end of a part with which the next one begins, at most.
    """
    if document.tokens <= tokens:
        return [document]
    most, common = tokens * BYTES_PER_TOKEN, overlap * BYTES_PER_TOKEN
    # a text without borders is cut so that the ends of its pieces overlap too
    shortest = common // 2 if _SHORTEST <= common // 2 < most else most
    groups: list[list[_Piece]] = [[]]
    size = 0
    for piece in _pieces(document, most, shortest):
        if groups[-1] and size + piece.size > most:
            kept = _tail(groups[-1], min(common, most - piece.size))
            groups.append(kept)
            size = sum(one.size for one in kept)
        groups[-1].append(piece)
        size += piece.size
    return [replace(document, parts=_joined(group)) for group in groups]


def _tail(group: Sequence[_Piece], most: int) -> list[_Piece]:
    kept: list[_Piece] = []
    for piece in reversed(group):
        most -= piece.size
        if most < 0 or not isinstance(piece.part, TextPart):
            break
        kept.insert(0, piece)
    return kept


def _pieces(document: Document, most: int, shortest: int) -> Iterator[_Piece]:
    """Paragraphs and images; a paragraph that is too long in smaller pieces."""
    for place, part in enumerate(document.parts):
        if isinstance(part, TextPart):
            for text in _shorter(part.text, most, shortest, 0):
                yield _Piece(TextPart(text), place, _size(text))
        else:
            yield _Piece(part, place, _IMAGE)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _shorter(text: str, most: int, shortest: int, level: int) -> Iterator[str]:
    if level == len(_BORDERS):
        step = max(shortest // max(map(_size, text)), 1)
        yield from (text[at : at + step] for at in range(0, len(text), step))
    else:
        at = 0
        ends = (border.end() for border in _BORDERS[level].finditer(text))
        for end in (*ends, len(text)):
            if end > at:
                yield from _within(text[at:end], most, shortest, level + 1)
                at = end


def _within(text: str, most: int, shortest: int, level: int) -> Iterator[str]:
    return iter([text]) if _size(text) <= most else _shorter(text, most, shortest, level)


def _joined(group: Sequence[_Piece]) -> list[DocumentPart]:
    """Neighbouring pieces of one text as one; two texts of a document stay two."""
    joined: list[DocumentPart] = []
    for _, same in groupby(group, key=lambda piece: piece.place):
        pieces = [one.part for one in same]
        texts = [one.text for one in pieces if isinstance(one, TextPart)]
        joined += [TextPart("".join(texts))] if texts else pieces
    return joined
