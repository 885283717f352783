"""Long documents in parts: where they are divided.

Parts overlap, and begin and end between paragraphs where they can, else between lines, sentences or words.
Together they hold the whole document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from connectors.llm.documents import Document
from connectors.objects.documents import DocumentPart, TextPart

__all__ = ["divided"]

_BORDERS: Final = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s*"),
    re.compile(r" +"),
)


def divided(document: Document, tokens: int, overlap: int) -> list[Document]:
    """The document in parts of at most so many estimated tokens; itself when it has no more.

    Args:
        overlap: tokens of the end of a part with which the next one begins, at most.
    """
    if document.tokens <= tokens:
        return [document]
    groups: list[list[DocumentPart]] = [[]]
    for piece in _pieces(document, tokens):
        if groups[-1] and _size(document, [*groups[-1], piece]) > tokens:
            kept = _tail(document, groups[-1], overlap)
            fits = _size(document, [*kept, piece]) <= tokens
            groups.append(kept if fits else [])
        groups[-1].append(piece)
    return [replace(document, parts=_joined(group)) for group in groups]


def _size(document: Document, parts: Sequence[DocumentPart]) -> int:
    return replace(document, parts=parts).tokens


def _tail(document: Document, group: Sequence[DocumentPart], overlap: int) -> list[DocumentPart]:
    kept: list[DocumentPart] = []
    for piece in reversed(group):
        if not isinstance(piece, TextPart) or _size(document, [piece, *kept]) > overlap:
            break
        kept.insert(0, piece)
    return kept


def _pieces(document: Document, tokens: int) -> Iterator[DocumentPart]:
    """Paragraphs and images; a paragraph that is too long in smaller pieces."""
    for part in document.parts:
        if isinstance(part, TextPart):
            yield from (TextPart(text) for text in _shorter(document, part.text, tokens, 0))
        else:
            yield part


def _shorter(document: Document, text: str, tokens: int, level: int) -> Iterator[str]:
    if level and _size(document, [TextPart(text)]) <= tokens:
        yield text
    elif level == len(_BORDERS):
        half = len(text) // 2
        yield from (
            one for part in (text[:half], text[half:]) for one in _shorter(document, part, tokens, level)
        )
    else:
        at = 0
        for border in _BORDERS[level].finditer(text):
            if border.end() > at:
                yield from _shorter(document, text[at : border.end()], tokens, level + 1)
                at = border.end()
        if at < len(text):
            yield from _shorter(document, text[at:], tokens, level + 1)


def _joined(group: Sequence[DocumentPart]) -> list[DocumentPart]:
    """Neighbouring texts as one."""
    joined: list[DocumentPart] = []
    for piece in group:
        if isinstance(piece, TextPart) and joined and isinstance(joined[-1], TextPart):
            joined[-1] = TextPart(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined
