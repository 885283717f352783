"""Bookmarks: what a node keeps from one run to the next.

A node reaches them as `ctx.bookmarks`. A source sets new ones by handing them on with the batch that they
stand for (`Batch.bookmarks`), a transform with the ack of the record that they stand for (`Ack.remember`).
They belong to one node of one pipeline.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from engine.contract.types import JsonValue

__all__ = ["Bookmark", "Bookmarks", "NoBookmarks"]


class Bookmark(NamedTuple):
    """How far a source has read one thing of its input.

    Args:
        scope: where the thing is, as far as its key does not say so (a server and a bucket); may be "".
        key: names the thing within its scope (an object, a file).
        value: JSON-safe; what was delivered of it (an ETag, an offset). Replaces an earlier one.
        node: the node that it belongs to; "" is the source of the batch.
    """

    scope: str
    key: str
    value: JsonValue
    node: str = ""


class Bookmarks(Protocol):
    """The bookmarks that earlier runs of a node have left."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        """Return the existing values of these keys, by key.

        There may be millions: ask for those of a page of the input, never for all. Raises `StateError`.
        """
        ...


class NoBookmarks:
    """Bookmarks of a node without a pipeline: nothing is stored."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        return {}
