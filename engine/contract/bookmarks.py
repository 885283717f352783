"""Bookmarks: what a source keeps from one run to the next.

A source reaches them as `ctx.bookmarks`, and sets new ones by handing them on with the batch that they stand
for (`Batch.bookmarks`). They belong to one source of one pipeline.
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
    """

    scope: str
    key: str
    value: JsonValue


class Bookmarks(Protocol):
    """The bookmarks that earlier runs of a source have left."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        """Return the existing values of these keys, by key.

        There may be millions: ask for those of a page of the input, never for all. Raises `StateError`.
        """
        ...


class NoBookmarks:
    """Bookmarks of a source without a pipeline: nothing is stored."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        return {}
