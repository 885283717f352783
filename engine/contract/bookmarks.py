"""Bookmarks: what a source remembers from one run to the next, and what it sees of the store that keeps them.

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
    """How far a source has come with one thing of its input.

    Args:
        scope: where the thing is, as far as its key does not say so (a server and a bucket); may be "".
        key: names the thing within its scope (an object, a file).
        value: JSON-safe; what was delivered of it (an ETag, an offset). Replaces an earlier one.
    """

    scope: str
    key: str
    value: JsonValue


class Bookmarks(Protocol):
    """The bookmarks of one source, as its earlier runs have left them."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        """The values of these keys, as far as there are any, by key.

        There may be millions: ask for those of a page of the input, never for all. Raises `StateError`.
        """
        ...


class NoBookmarks:
    """Remembers nothing: the bookmarks of a source that is used without a pipeline."""

    async def get(self, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        return {}
