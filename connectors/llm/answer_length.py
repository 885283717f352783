"""Estimate how long an answer may become, so that an endpoint reserves no more than needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from connectors.llm.documents import Document
from connectors.llm.schema import TargetSchema
from connectors.llm.shapes import Shape
from connectors.llm.structures import Either, Entries, Fields, Items, Places, Reference

THOUGHTS: Final = 8_000
"""Additional tokens for a reasoning model's thoughts."""

_FRAME: Final = 48  # a slot with its nonce
_FIELD: Final = 48  # a name and a short value
_SHORT_VALUE: Final = 16  # with its name
_OF_TEXT: Final = 0.25  # how much of the documents an answer repeats: free text
_OF_LISTS: Final = 1.0
_OF_RECORDS: Final = 4.0  # lines of a table become objects, with the name of each value
_SHORTEST: Final = 512
_LONGEST: Final = 32_000


class AnswerLength:
    """Estimates the tokens of answers from the fields of a schema and the documents of a call.

    A short value takes about 48 tokens. Free text may repeat a quarter of its document, lists of values all
    of it, and lists of objects need four times as much.
    """

    def __init__(self, schema: TargetSchema) -> None:
        shapes = [one.shape for one in schema.fields.values()]
        self._names = len(shapes)
        self._fields = sum(_leaves(one, frozenset()) for one in shapes)
        self._share = _share(shapes, frozenset())

    @property
    def has_lists(self) -> bool:
        """Whether the number of values is unlimited."""
        return self._share >= _OF_LISTS

    def of(self, documents: Sequence[Document]) -> int:
        """Return tokens that suffice for the answers about these documents."""
        texts = sum(document.tokens for document in documents)
        tokens = len(documents) * (_FRAME + self._fields * _FIELD) + int(texts * self._share)
        return min(max(tokens, _SHORTEST), _LONGEST)

    def usual(self, documents: Sequence[Document]) -> int:
        """Return what to reserve for the answers: short values, and lists about as long as the documents."""
        texts = sum(document.tokens for document in documents) if self.has_lists else 0
        return len(documents) * self._names * _SHORT_VALUE + texts


def _leaves(shape: Shape, seen: frozenset[str]) -> int:
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


def _share(shapes: Iterable[Shape], seen: frozenset[str], *, listed: bool = False) -> float:
    """Return how much of its documents an answer may repeat. `listed`: any number of these values."""
    least = _OF_LISTS if listed else _OF_TEXT
    return max((_share_of(one, seen, listed) for one in shapes), default=least)


def _share_of(shape: Shape, seen: frozenset[str], listed: bool) -> float:
    if isinstance(shape, Reference):
        if shape.name in seen:
            return _OF_RECORDS
        return _share_of(shape.target, seen | {shape.name}, listed)
    if isinstance(shape, Entries) or (listed and isinstance(shape, Fields | Places)):
        return _OF_RECORDS
    return _share(_inside(shape), seen, listed=listed or isinstance(shape, Items))
