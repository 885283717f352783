"""Leases as SQL. Every function here runs inside a transaction of `Database`.

The row of a released lease stays with an empty holder: its epoch must not be used again.
"""

from __future__ import annotations

import sqlite3

from engine.errors import LeaseHeldError, LeaseLostError
from engine.state.fencing import require_epoch, require_run
from engine.state.protocol import Lease

__all__ = ["acquire", "release", "renew", "select"]

# A run may be divided among several processes later; `chunk` "" is the run as a whole.
_SELECT = "SELECT holder, epoch, expires_at FROM leases WHERE run_id = ? AND chunk = ''"

_UPSERT = """
INSERT INTO leases (run_id, chunk, holder, epoch, expires_at) VALUES (?, '', ?, ?, ?)
ON CONFLICT (run_id, chunk) DO UPDATE SET
    holder = excluded.holder, epoch = excluded.epoch, expires_at = excluded.expires_at
"""


def acquire(
    connection: sqlite3.Connection, run_id: str, holder: str, now: str, until: str, dead_holder: str
) -> Lease:
    """Take the lease of a run that is there; refused while another holder's lasts."""
    require_run(connection, run_id)
    row = connection.execute(_SELECT, (run_id,)).fetchone()
    if row and row["holder"] not in ("", dead_holder) and row["expires_at"] > now:
        raise LeaseHeldError(run_id, row["holder"], row["expires_at"])
    lease = Lease(run_id, holder, row["epoch"] + 1 if row else 1, until)
    connection.execute(_UPSERT, (run_id, holder, lease.epoch, until))
    return lease


def renew(connection: sqlite3.Connection, lease: Lease, until: str) -> Lease:
    """Make it last until then, if it is still the holder's."""
    require_run(connection, lease.run_id)
    renewed = connection.execute(
        "UPDATE leases SET expires_at = ? WHERE run_id = ? AND chunk = '' AND holder = ? AND epoch = ?",
        (until, lease.run_id, lease.holder, lease.epoch),
    )
    if not renewed.rowcount:
        require_epoch(connection, lease.run_id, lease.epoch)
        raise LeaseLostError(f"run {lease.run_id!r} was given back by {lease.holder}: nobody works on it")
    return Lease(lease.run_id, lease.holder, lease.epoch, until)


def release(connection: sqlite3.Connection, lease: Lease) -> None:
    """Empty the row, if it is still the holder's."""
    connection.execute(
        "UPDATE leases SET holder = '', expires_at = ''"
        " WHERE run_id = ? AND chunk = '' AND holder = ? AND epoch = ?",
        (lease.run_id, lease.holder, lease.epoch),
    )


def select(connection: sqlite3.Connection, run_id: str) -> Lease | None:
    """The lease of a run, expired or not."""
    require_run(connection, run_id)
    row = connection.execute(_SELECT, (run_id,)).fetchone()
    if not row or not row["holder"]:
        return None
    return Lease(run_id, row["holder"], row["epoch"], row["expires_at"])
