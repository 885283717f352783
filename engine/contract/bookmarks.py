"""Bookmarks: data that a node keeps from one run to the next.

A node reads them with `ctx.bookmarks`. A source sets new ones by passing them on with their batch
(`Batch.bookmarks`), a transform with the ack of their record (`Ack.remember`). They belong to one node of one
pipeline.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from engine.contract.types import JsonValue

__all__ = ["Bookmark", "Bookmarks", "NoBookmarks"]


class Bookmark(NamedTuple):
    """How far a source has read one item of its input.

    Args:
        scope: the location of the item that is not part of its key (a server and a bucket); may be "".
        key: names the item within its scope (an object, a file).
        value: JSON-safe; what was delivered (an ETag, an offset). Replaces an earlier value.
        node: the node that it belongs to; "" means the source of the batch.
    """

    scope: str
    key: str
    value: JsonValue
    node: str = ""


class Bookmarks(Protocol):
    """The bookmarks from earlier runs of a node."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        """Return the existing values of these keys, by key.

        There may be millions: request those of a page of the input, never all. Raises `StateError`.
        """


class NoBookmarks:
    """Bookmarks without a pipeline: nothing is stored."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        return {}
