"""Pending notifications as SQL. Every function here runs inside a transaction of `Database`."""

from __future__ import annotations

from engine.state.connection import Connection
from engine.state.encoding import decoded, encoded
from engine.state.records import Notification

_UPSERT = """
INSERT INTO notifications (run_id, attempt, pipeline, message, ended_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (run_id, attempt) DO UPDATE SET message = excluded.message, ended_at = excluded.ended_at
"""


def put(connection: Connection, one: Notification) -> None:
    """Store the notification of an attempt, replacing an earlier one."""
    message = encoded(dict(one.message), f"the notification of run {one.run_id!r}")
    connection.execute(_UPSERT, (one.run_id, one.attempt, one.pipeline, message, one.ended_at))


def select(connection: Connection) -> list[Notification]:
    """Return all notifications, oldest first."""
    rows = connection.execute("SELECT * FROM notifications ORDER BY ended_at, run_id, attempt")
    return [
        Notification(
            row["run_id"], row["attempt"], row["pipeline"], decoded(row["message"], "a notification"),
            row["ended_at"],
        )
        for row in rows
    ]  # fmt: skip


def delete(connection: Connection, run_id: str, attempt: int) -> None:
    """Delete the notification of an attempt, if it is there."""
    connection.execute("DELETE FROM notifications WHERE run_id = ? AND attempt = ?", (run_id, attempt))


def delete_older(connection: Connection, before: str) -> int:
    """Delete notifications of runs that ended before a time, and return their number."""
    return connection.execute("DELETE FROM notifications WHERE ended_at < ?", (before,)).rowcount
