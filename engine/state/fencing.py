"""What a write about a run requires: that the run is there, and that nobody has taken it over.

Every function here runs inside the transaction of the write.
"""

from __future__ import annotations

import sqlite3

from engine.state.failures import lease_lost, no_such_run

__all__ = ["place", "require_epoch", "require_run"]


# The epoch of a chunk that still has it is overtaken only by the run as a whole; every other one by anything.
_OVERTAKING = """
SELECT holder, epoch FROM leases WHERE run_id = ?1 AND epoch > ?2
    AND (chunk = '' OR NOT EXISTS (SELECT 1 FROM leases WHERE run_id = ?1 AND epoch = ?2 AND chunk <> ''))
ORDER BY epoch DESC LIMIT 1
"""


def require_epoch(connection: sqlite3.Connection, run_id: str, epoch: int) -> None:
    """Raises `LeaseLostError` when the epoch has been overtaken; `Lease` says by what."""
    row = connection.execute(_OVERTAKING, (run_id, epoch)).fetchone()
    if row:
        raise lease_lost(run_id, row["holder"], row["epoch"], epoch)


def require_run(connection: sqlite3.Connection, run_id: str) -> None:
    """Raises `RunNotFoundError`, naming the nearest ids."""
    if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is None:
        newest = connection.execute("SELECT run_id FROM runs ORDER BY started_at DESC, seq DESC LIMIT 1000")
        known = [row["run_id"] for row in newest]
        raise no_such_run(run_id, known[::-1], place(connection))


def place(connection: sqlite3.Connection) -> str:
    """The file of a connection, for messages."""
    path: str = connection.execute("PRAGMA database_list").fetchone()["file"]
    return path
