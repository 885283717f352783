"""Estimate how long an answer may become, so that an endpoint reserves no more than needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from connectors.llm.documents import Document
from connectors.llm.schema import TargetSchema
from connectors.llm.shapes import Choice, Shape, Text
from connectors.llm.structures import Either, Entries, Fields, Items, Places, Reference

__all__ = ["THOUGHTS", "AnswerLength"]

THOUGHTS: Final = 8_000
"""Additional tokens for a reasoning model's thoughts."""

_FRAME: Final = 48  # a slot with its nonce
_FIELD: Final = 48  # a name and a short value
_SHORTEST: Final = 512
_LONGEST: Final = 32_000


class AnswerLength:
    """Estimates the tokens of answers from the fields of a schema and the documents of a call.

    A short value takes about 48 tokens. Free text may repeat a quarter of its document, and lists all of it.
    """

    def __init__(self, schema: TargetSchema) -> None:
        shapes = [one.shape for one in schema.fields.values()]
        self._fields = sum(_leaves(one, set()) for one in shapes)
        self._share = 1.0 if _is_open(shapes, set()) else 0.25

    def of(self, documents: Sequence[Document]) -> int:
        """Return tokens that suffice for the answers about these documents."""
        texts = sum(document.tokens for document in documents)
        tokens = len(documents) * (_FRAME + self._fields * _FIELD) + int(texts * self._share)
        return min(max(tokens, _SHORTEST), _LONGEST)


def _leaves(shape: Shape, seen: set[str]) -> int:
    if isinstance(shape, Reference):
        if shape.name in seen:
            return 0
        return _leaves(shape.target, seen | {shape.name})
    inner = list(_inside(shape))
    return sum(_leaves(one, seen) for one in inner) if inner else 1


def _inside(shape: Shape) -> Iterable[Shape]:
    if isinstance(shape, Fields):
        return [one.shape for one in shape.fields.values()]
    if isinstance(shape, Items):
        return [shape.item]
    if isinstance(shape, Entries):
        return [shape.key, shape.value]
    if isinstance(shape, Places):
        return shape.places
    return shape.branches if isinstance(shape, Either) else []


def _is_open(shapes: Iterable[Shape], seen: set[str]) -> bool:
    """Return whether the number of values is unlimited."""
    for shape in shapes:
        if isinstance(shape, Items | Entries):
            return True
        if isinstance(shape, Reference):
            if shape.name in seen or _is_open([shape.target], seen | {shape.name}):
                return True
        elif not isinstance(shape, Text | Choice) and _is_open(_inside(shape), seen):
            return True
    return False
