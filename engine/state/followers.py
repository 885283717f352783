"""Pipelines that have to follow a run, as SQL. Every function runs inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Iterable

from engine.state.connection import Connection
from engine.state.records import Follower

_INSERT = """
INSERT INTO followers (group_id, pipeline, run_id) SELECT ?1, ?2, run_id FROM runs WHERE run_id = ?3
    AND (?4 = 0 OR NOT EXISTS (SELECT 1 FROM runs AS begun WHERE begun.group_id = ?1 AND begun.pipeline = ?2))
ON CONFLICT (group_id, pipeline, run_id) DO NOTHING
"""


def put(connection: Connection, followers: Iterable[Follower], *, once: bool = False) -> None:
    """Store what follows a run.

    Args:
        once: except for pipelines that have a run in the group, perhaps of another process.
    """
    for one in followers:
        _hold(connection, one)
        connection.execute(_INSERT, (one.group_id, one.pipeline, one.run_id, int(once)))


def select(connection: Connection, group_id: str) -> list[Follower]:
    """Return what was not started yet, of a group or, for "", of all; a pipeline may follow several runs."""
    where, values = ("WHERE group_id = ?", (group_id,)) if group_id else ("", ())
    query = f"SELECT * FROM followers {where} ORDER BY group_id, run_id, pipeline"  # noqa: S608 - constants
    rows = connection.execute(query, values)
    return [Follower(row["group_id"], row["pipeline"], row["run_id"]) for row in rows]


def delete(connection: Connection, one: Follower) -> bool:
    """Delete a follower that is started or given up, after any run; return whether it was there."""
    _hold(connection, one)
    deleted = connection.execute(
        "DELETE FROM followers WHERE group_id = ? AND pipeline = ?", (one.group_id, one.pipeline)
    )
    return bool(deleted.rowcount)


def delete_of_run(connection: Connection, run_id: str) -> None:
    """Delete what follows a run, which is being resumed."""
    connection.execute("DELETE FROM followers WHERE run_id = ?", (run_id,))


def _hold(connection: Connection, one: Follower) -> None:
    """Hold the group: a pipeline must not be started while another process stores that it has to start."""
    connection.hold_run(f"group/{one.group_id}", alone=True)
