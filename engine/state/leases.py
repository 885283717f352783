"""Leases as SQL. Every function here runs inside a transaction of `Database`.

`engine.execution.lease` defines the duration of leases and renews them.

The row of a released lease is kept with an empty holder, since its epoch must not be reused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engine.errors import LeaseHeldError, LeaseLostError
from engine.state.connection import Connection
from engine.state.fencing import require_epoch, require_run
from engine.state.records import Lease

# `chunk` "" is the whole run.
_IN_THE_WAY = """
SELECT holder, expires_at FROM leases
WHERE run_id = ?1 AND (chunk IN ('', ?2) OR ?2 = '') AND holder <> '' AND expires_at > ?3
ORDER BY epoch DESC
"""

_COUNTED = """
SELECT coalesce(max(epoch), 0) AS epoch,
    CAST(coalesce(sum(CASE WHEN chunk IN ('', ?2) THEN acquisitions END), 0) AS BIGINT) AS acquisitions
FROM leases WHERE run_id = ?1
"""

_UPSERT = """
INSERT INTO leases (run_id, chunk, holder, epoch, expires_at, acquisitions) VALUES (?, ?, ?, ?, ?, 1)
ON CONFLICT (run_id, chunk) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch,
    expires_at = excluded.expires_at, acquisitions = leases.acquisitions + 1
"""


def acquire(
    connection: Connection,
    run_id: str,
    chunk: str,
    holder: str,
    now: str,
    until: str,
    dead_holders: Collection[str],
) -> Lease:
    """Acquire the lease of an existing run or of a chunk of it, unless another holder's is still valid."""
    connection.hold_run(run_id, alone=True)
    require_run(connection, run_id)
    for row in connection.execute(_IN_THE_WAY, (run_id, chunk, now)):
        if row["holder"] in dead_holders:
            continue
        raise LeaseHeldError(run_id, row["holder"], row["expires_at"])
    before = connection.execute(_COUNTED, (run_id, chunk)).fetchone()
    lease = Lease(run_id, holder, before["epoch"] + 1, until, chunk, before["acquisitions"] + 1)
    connection.execute(_UPSERT, (run_id, chunk, holder, lease.epoch, until))
    return lease


def renew(connection: Connection, lease: Lease, until: str) -> Lease:
    """Extend the lease to this time, if it is still the holder's."""
    require_epoch(connection, lease.run_id, lease.epoch)
    renewed = connection.execute(
        "UPDATE leases SET expires_at = ? WHERE run_id = ? AND chunk = ? AND holder = ? AND epoch = ?",
        (until, lease.run_id, lease.chunk, lease.holder, lease.epoch),
    )
    if not renewed.rowcount:
        raise LeaseLostError(f"{lease.holder} has released run {lease.run_id!r}: no process is working on it")
    return replace(lease, expires_at=until)


def release(connection: Connection, lease: Lease) -> None:
    """Clear the holder, if the lease is still its own."""
    connection.execute(
        "UPDATE leases SET holder = '', expires_at = ''"
        " WHERE run_id = ? AND chunk = ? AND holder = ? AND epoch = ?",
        (lease.run_id, lease.chunk, lease.holder, lease.epoch),
    )


def select(connection: Connection, run_id: str) -> list[Lease]:
    """Return the unreleased leases of a run and its chunks, the run's own first."""
    require_run(connection, run_id)
    rows = connection.execute(
        "SELECT * FROM leases WHERE run_id = ? AND holder <> '' ORDER BY chunk, epoch", (run_id,)
    )
    names = ("run_id", "holder", "epoch", "expires_at", "chunk", "acquisitions")
    return [Lease(*(row[name] for name in names)) for row in rows]
