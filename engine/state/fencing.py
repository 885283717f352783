"""Conditions for writes about a run: the run exists, and no other process has taken it over.

Every function here runs inside the transaction of the write, and holds the run until its end: a lease is
acquired either before the write, which is then rejected, or after it.
"""

from __future__ import annotations

import difflib

from engine.errors import LeaseLostError, RunNotFoundError
from engine.state.connection import Connection

# The epoch of a current chunk is superseded only by a lease on the whole run; any other by every higher one.
# One row with NULLs means that the epoch is valid, no row that the run does not exist.
_OVERTAKING = """
SELECT leases.holder AS holder, leases.epoch AS epoch FROM runs LEFT JOIN leases
    ON leases.run_id = runs.run_id AND leases.epoch > ?2 AND (leases.chunk = '' OR NOT EXISTS (
        SELECT 1 FROM leases AS ours WHERE ours.run_id = ?1 AND ours.epoch = ?2 AND ours.chunk <> ''))
WHERE runs.run_id = ?1 ORDER BY leases.epoch DESC LIMIT 1
"""


def require_epoch(connection: Connection, run_id: str, epoch: int, *, alone: bool = False) -> None:
    """Check that a write about a run is allowed.

    Args:
        alone: exclude other writes about the run meanwhile.

    Raises:
        RunNotFoundError: the run does not exist; the message suggests the nearest ids.
        LeaseLostError: a higher epoch exists, see `Lease`.
    """
    connection.hold_run(run_id, alone=alone)
    row = connection.execute(_OVERTAKING, (run_id, epoch)).fetchone()
    if row is None:
        raise _no_such_run(connection, run_id)
    if row["epoch"] is not None:
        raise _lease_lost(run_id, row["holder"], row["epoch"], epoch)


def require_run(connection: Connection, run_id: str) -> None:
    """Check that a run exists. Raises `RunNotFoundError` with the nearest ids."""
    if connection.execute("SELECT 1 AS known FROM runs WHERE run_id = ?", (run_id,)).fetchone() is None:
        raise _no_such_run(connection, run_id)


def _no_such_run(connection: Connection, run_id: str) -> RunNotFoundError:
    """Return the error for an unknown run, with the nearest ids."""
    newest = connection.execute("SELECT run_id FROM runs ORDER BY started_at DESC, seq DESC LIMIT 1000")
    known = [row["run_id"] for row in newest][::-1]
    near = [known_id for known_id in known if run_id and known_id.startswith(run_id)][-3:]
    near = near or difflib.get_close_matches(run_id, known, n=3)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = f"the latest are {', '.join(reversed(known[-3:]))}"
    else:
        hint = "it has no runs"
    return RunNotFoundError(f"no run {run_id!r} in {connection.place}: {hint}")


def _lease_lost(run_id: str, holder: str, current: int, ours: int) -> LeaseLostError:
    """Return the error for a write with an old epoch; `holder` "": the `current` lease was released."""
    return LeaseLostError(
        f"{holder or 'another process'} took over run {run_id!r} (epoch {current}, ours is {ours}): the "
        "store rejects further writes of this process"
    )
