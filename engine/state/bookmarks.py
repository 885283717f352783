"""Bookmarks as SQL. Every function here runs inside a transaction of `Database`.

`engine.state.ledger` writes bookmarks together with their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.contract.bookmarks import Bookmark
from engine.contract.types import JsonValue
from engine.state.connection import NO_LIMIT, Connection
from engine.state.dead_letters import storable
from engine.state.encoding import decoded, encoded
from engine.state.records import BookmarkFilter, BookmarkRecord, BookmarkScope

BookmarkRow = tuple[str, str, str, str]
"""Node, scope, key and value."""

_KEYS_AT_ONCE: Final = 500  # SQLite before 3.32 allows 999 parameters

# a deleted run has no position in the order: every other run is later
_UPSERT: Final = """
INSERT INTO bookmarks (pipeline, node, scope, key, value, run_id)
SELECT pipeline, ?2, ?3, ?4, ?5, run_id FROM runs WHERE run_id = ?1
ON CONFLICT (pipeline, node, scope, key) DO UPDATE SET value = excluded.value, run_id = excluded.run_id
WHERE coalesce((SELECT seq FROM runs WHERE run_id = bookmarks.run_id), 0)
    <= (SELECT seq FROM runs WHERE run_id = excluded.run_id)
"""

_SELECT_KEYS: Final = (
    "SELECT key, value FROM bookmarks WHERE pipeline = ? AND node = ? AND scope = ? AND key IN"
)

_WHERE: Final = """
WHERE (?1 = '' OR pipeline = ?1) AND (?2 = '' OR node = ?2) AND (?3 = '' OR scope = ?3)
    AND (?4 = '' OR key = ?4)
"""


def bookmark_row(node: str, bookmark: Bookmark) -> BookmarkRow:
    """Return a bookmark of a node as SQL values."""
    value = encoded(bookmark.value, f"bookmark {bookmark.key!r} of node {node!r}")
    return bookmark.node or node, storable(bookmark.scope), storable(bookmark.key), value


def put(connection: Connection, run_id: str, rows: Sequence[BookmarkRow]) -> None:
    """Store or replace bookmarks of an existing run, except those set by a later run."""
    connection.executemany(_UPSERT, [(run_id, *row) for row in rows])


def select_keys(
    connection: Connection, pipeline: str, node: str, scope: str, keys: Sequence[str]
) -> dict[str, JsonValue]:
    """Return the values of these keys."""
    named = {storable(key): key for key in keys}
    stored, found = list(named), {}
    for start in range(0, len(stored), _KEYS_AT_ONCE):
        part = stored[start : start + _KEYS_AT_ONCE]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(
            f"{_SELECT_KEYS} ({marks})",
            (pipeline, node, storable(scope), *part),
        )
        for row in rows:
            found[named[row["key"]]] = decoded(row["value"], f"bookmark {row['key']!r}")
    return found


def select(connection: Connection, where: BookmarkFilter) -> list[BookmarkRecord]:
    """Return matching bookmarks, sorted by pipeline, node, scope and key."""
    rows = connection.execute(
        f"SELECT * FROM bookmarks {_WHERE} ORDER BY pipeline, node, scope, key LIMIT ?5",  # noqa: S608 - a constant
        (*_criteria(where), NO_LIMIT if where.limit is None else where.limit),
    )
    return [
        BookmarkRecord(
            row["pipeline"], row["node"], row["scope"], row["key"],
            decoded(row["value"], f"bookmark {row['key']!r}"), row["run_id"],
        )
        for row in rows
    ]  # fmt: skip


def count(connection: Connection, where: BookmarkFilter) -> list[BookmarkScope]:
    """Count matching bookmarks by pipeline, node and scope."""
    rows = connection.execute(
        f"SELECT pipeline, node, scope, count(*) AS number FROM bookmarks {_WHERE}"  # noqa: S608 - a constant
        " GROUP BY pipeline, node, scope ORDER BY pipeline, node, scope",
        _criteria(where),
    )
    return [BookmarkScope(row["pipeline"], row["node"], row["scope"], row["number"]) for row in rows]


def delete(connection: Connection, where: BookmarkFilter) -> int:
    """Delete matching bookmarks."""
    return connection.execute(f"DELETE FROM bookmarks {_WHERE}", _criteria(where)).rowcount  # noqa: S608 - a constant


def _criteria(where: BookmarkFilter) -> tuple[str, str, str, str]:
    return (where.pipeline, where.node, storable(where.scope), storable(where.key))
