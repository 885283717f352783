"""Bookmarks in memory; the rules are those of `engine.state.bookmarks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from engine.contract.bookmarks import Bookmark
from engine.contract.types import JsonValue
from engine.state.dead_letters import storable
from engine.state.errors import decoded, encoded
from engine.state.protocol import BookmarkFilter, BookmarkRecord, BookmarkScope, RunRecord

__all__ = ["MemoryBookmarks"]


class MemoryBookmarks:
    """By pipeline, node, scope and key."""

    def __init__(self) -> None:
        self._bookmarks: dict[tuple[str, str, str, str], BookmarkRecord] = {}

    def put(self, run: RunRecord, node: str, bookmarks: Sequence[Bookmark], *, runs: Sequence[str]) -> None:
        """Store or replace those of a run. `runs`: all ids in the order of their creation."""
        later = set(runs[runs.index(run.run_id) + 1 :])
        for one in bookmarks:
            place = (run.pipeline, node, storable(one.scope), storable(one.key))
            old = self._bookmarks.get(place)
            if old is None or old.run_id not in later:
                self._bookmarks[place] = BookmarkRecord(*place, one.value, run.run_id)

    def get(self, pipeline: str, node: str, scope: str, keys: Collection[str]) -> dict[str, JsonValue]:
        places = {key: (pipeline, node, storable(scope), storable(key)) for key in keys}
        return {
            key: _copy(self._bookmarks[place].value)
            for key, place in places.items()
            if place in self._bookmarks
        }

    def matching(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        """In order of their names."""
        wanted = (where.pipeline, where.node, storable(where.scope), storable(where.key))
        return [
            record
            for place, record in sorted(self._bookmarks.items(), key=lambda item: item[0])
            if all(one in ("", other) for one, other in zip(wanted, place, strict=True))
        ]

    def scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        """How many match, in order of their names."""
        counted = Counter((one.pipeline, one.node, one.scope) for one in self.matching(where))
        return [BookmarkScope(*place, number) for place, number in counted.items()]

    def delete(self, where: BookmarkFilter) -> int:
        """Delete those that match; returns how many."""
        gone = self.matching(where)
        for one in gone:
            del self._bookmarks[one.pipeline, one.node, one.scope, one.key]
        return len(gone)


def _copy(value: JsonValue) -> JsonValue:
    return decoded(encoded(value, "a bookmark"), "a bookmark")
