"""Split long documents into parts, and merge the answers about them.

Parts overlap, and are divided between paragraphs if possible, else between lines, sentences or words.
Together they contain the whole document.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from connectors.llm.documents import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, Document
from connectors.objects.documents import DocumentPart, TextPart

_BORDERS: Final = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?\u061f\u06d4\u0964])\s+|(?<=[\u3002\uff01\uff1f])\s*"),
    re.compile(r"\s+"),
    re.compile(r"(?<=[,;|}\]\u060c\u3001\uff0c\uff1b])(?!\d)"),
)
_IMAGE: Final = TOKENS_PER_IMAGE * BYTES_PER_TOKEN
_MIN_CUT: Final = 64  # bytes of a piece cut at an arbitrary position, so that parts overlap there too


class _Piece(NamedTuple):
    """A piece of a document's part number `place`: text, or an image ("")."""

    text: str
    size: int  # bytes
    place: int


def divided(document: Document, tokens: int, overlap: int) -> list[Document]:
    """Split a document into parts of at most this many estimated tokens; a shorter one is returned whole.

    Args:
        overlap: maximum tokens shared by the end of a part and the beginning of the next.
    """
    if document.tokens <= tokens:
        return [document]
    # at most half of a part: with more overlap, one document could become hundreds of parts
    most, common = tokens * BYTES_PER_TOKEN, min(overlap, tokens // 2) * BYTES_PER_TOKEN
    # a text without boundaries is cut so that its pieces overlap too
    shortest = common // 2 if _MIN_CUT <= common // 2 < most else most
    groups: list[list[_Piece]] = [[]]
    size = 0
    for piece in _pieces(document, most, shortest):
        if groups[-1] and size + piece.size > most:
            groups.append(_tail(groups[-1], min(common, most - piece.size)))
            size = sum(one.size for one in groups[-1])
        groups[-1].append(piece)
        size += piece.size
    return [replace(document, parts=_joined(group, document.parts)) for group in groups]


def _tail(group: Sequence[_Piece], most: int) -> list[_Piece]:
    kept: list[_Piece] = []
    for piece in reversed(group):
        most -= piece.size
        if most < 0 or not piece.text:
            break
        kept.append(piece)
    return kept[::-1]


def _pieces(document: Document, most: int, shortest: int) -> Iterator[_Piece]:
    """Yield paragraphs and images; a paragraph that is too long becomes smaller pieces."""
    for place, part in enumerate(document.parts):
        if isinstance(part, TextPart):
            yield from (_Piece(text, size, place) for text, size in _shorter(part.text, most, shortest))
        else:
            yield _Piece("", _IMAGE, place)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _shorter(text: str, most: int, shortest: int, level: int = 0) -> Iterator[tuple[str, int]]:
    """Yield pieces of at most `most` bytes, with their sizes."""
    at = 0
    for end in _ends(text, shortest, level):
        if end == at:
            continue
        piece = text[at:end]
        at, size = end, _size(piece)
        if size <= most or level == len(_BORDERS):
            yield piece, size
        else:
            yield from _shorter(piece, most, shortest, level + 1)


def _ends(text: str, shortest: int, level: int) -> Iterator[int]:
    """Yield the ends of pieces: each boundary of the level or, below the last level, `shortest` bytes."""
    if level < len(_BORDERS):
        yield from (border.end() for border in _BORDERS[level].finditer(text))
    else:
        step = max(shortest // max(map(_size, text)), 1)
        yield from range(step, len(text), step)
    yield len(text)


def _joined(group: Sequence[_Piece], parts: Sequence[DocumentPart]) -> list[DocumentPart]:
    """Join neighbouring pieces of the same text; separate texts stay separate."""
    return [
        TextPart("".join(piece.text for piece in same))
        if isinstance(parts[place], TextPart)
        else parts[place]
        for place, same in groupby(group, key=attrgetter("place"))
    ]


class Merge(StrEnum):
    """How to merge the values from several parts."""

    FIRST = "first"
    LONGEST = "longest"
    ALL = "all"
    VOTE = "vote"


def merged(answers: Sequence[Mapping[str, object]], rules: Mapping[str, Merge]) -> dict[str, object]:
    """Merge the answers about the parts, in order, into one.

    By default lists are concatenated (a single value counts as an item), and the first of other values is
    used. An item that several parts state is used once, since parts overlap.
    """
    names = dict.fromkeys(name for answer in answers for name in answer)
    return {name: _one([answer.get(name) for answer in answers], rules.get(name)) for name in names}


def _one(values: Sequence[object], rule: Merge | None) -> object:
    stated = [value for value in values if value is not None and value != []]
    if not stated:
        return next((value for value in values if value is not None), None)
    if rule is Merge.ALL or (rule is None and any(isinstance(value, list) for value in stated)):
        if all(isinstance(value, str) for value in stated):
            return "\n".join(dict.fromkeys(map(str, stated)))
        return _added_up([value if isinstance(value, list) else [value] for value in stated])
    if rule is Merge.LONGEST:
        return max(stated, key=lambda value: len(_written(value)))
    if rule is Merge.VOTE:
        winner = Counter(map(_written, stated)).most_common(1)[0][0]
        return next(value for value in stated if _written(value) == winner)
    return stated[0]


def _added_up(lists: Sequence[Sequence[object]]) -> list[object]:
    """Concatenate lists. Items repeated across parts count once, those repeated within a part as often."""
    items: list[object] = []
    kept: Counter[str] = Counter()
    for one in lists:
        seen: Counter[str] = Counter()
        for item in one:
            text = _written(item)
            seen[text] += 1
            if seen[text] > kept[text]:
                kept[text] += 1
                items.append(item)
    return items


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
