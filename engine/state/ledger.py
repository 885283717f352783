"""Runs, splits and progress as SQL. Every function here runs inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.contract.acks import Tally
from engine.contract.split import Split
from engine.errors import RunExistsError, StateCorruptError, StateError
from engine.state import bookmarks, followers, notifications
from engine.state.connection import NO_LIMIT, Connection, Row, Value
from engine.state.dead_letters import storable
from engine.state.encoding import decoded, encoded
from engine.state.fencing import require_epoch, require_run
from engine.state.records import Acked, Follower, Notification, Progress, RunRecord, RunStatus, SplitRecord


class ProgressRow(NamedTuple):
    """A split's progress as SQL values; `place` is its node and split key."""

    values: tuple[Value, ...]
    acks: list[tuple[str, str, str]]
    bookmarks: list[bookmarks.BookmarkRow]
    place: tuple[str, str]


_COUNTS = ("read", "forked", "written", "accepted", "dropped", "dead", "tokens_in", "tokens_out", "cost_usd")
_BY_NODE = ("drops", "delivered", "deaths")
_TALLY = (*_COUNTS, *_BY_NODE)
_TOTALS = (("delivered", "written"), ("deaths", "dead"))

# `WHERE` is also required by SQLite, which would otherwise parse `ON CONFLICT` as a join condition.
_UPSERT_PROGRESS = f"""
INSERT INTO progress (split, position, done, read_limit, {", ".join(_TALLY)})
SELECT seq, ?, ?, ?, {", ".join("?" * len(_TALLY))} FROM splits
WHERE run_id = ? AND node = ? AND split_key = ?
ON CONFLICT (split) DO UPDATE SET position = excluded.position, done = excluded.done,
    read_limit = excluded.read_limit, {", ".join(f"{name} = excluded.{name}" for name in _TALLY)}
"""  # noqa: S608 - only the constant column names above are formatted in

_OF_SPLIT = "SELECT seq FROM splits WHERE run_id = ? AND node = ? AND split_key = ?"
_DELETE_ACKS = f"DELETE FROM acks WHERE split = ({_OF_SPLIT})"  # noqa: S608 - a constant
_INSERT_ACK = f"INSERT INTO acks (start_position, end_position, tally, split) VALUES (?, ?, ?, ({_OF_SPLIT}))"  # noqa: S608 - a constant


_SUM_COUNTS = f"""
SELECT {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _COUNTS)}
FROM progress JOIN splits ON splits.seq = progress.split WHERE run_id = ?1 AND (?2 = '' OR node = ?2)
"""  # noqa: S608 - constant names

_DELETE_INCOMPLETE = """
DELETE FROM splits WHERE run_id = ? AND node = ?
    AND NOT EXISTS (SELECT 1 FROM sources WHERE run_id = ? AND node = ? AND complete = 1)
"""


def insert_run(connection: Connection, run: RunRecord, follows: Follower | None) -> None:
    """Store a new run; an existing id is an error, and so is a follower that is no longer stored."""
    what = f"run {run.run_id!r}"
    inserted = connection.execute(
        "INSERT INTO runs (run_id, pipeline, group_id, identity, identity_doc, operational_doc, params, seed,"
        " started_at, status, ended_at, error, attempt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (run_id) DO NOTHING",
        (
            run.run_id, run.pipeline, run.group_id, run.identity, encoded(run.identity_doc, what),
            encoded(run.operational_doc, what), encoded(dict(run.params), what), run.seed, run.started_at,
            run.status.value, run.ended_at, run.error, run.attempt,
        ),
    )  # fmt: skip
    if not inserted.rowcount:
        raise RunExistsError(f"{what} is in {connection.place} already")
    if follows is not None and not followers.delete(connection, follows):
        raise RunExistsError(f"another process has started {run.pipeline!r} to follow run {follows.run_id!r}")


def select_run(connection: Connection, run_id: str) -> RunRecord:
    """Return the run with that id."""
    row = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        require_run(connection, run_id)
    return _run(row)


def select_runs(
    connection: Connection,
    wanted: Mapping[str, str],
    statuses: Sequence[str],
    before: str,
    limit: int | None,
) -> list[RunRecord]:
    """Return runs, oldest first; "" and empty mean any. With `limit` only that many of the latest."""
    conditions: list[str] = []
    values: list[str | int] = []
    for column, value in wanted.items():
        if value:  # conditions that do not apply would keep the database from using its indexes
            conditions.append(f"{column} = ?")
            values.append(value)
    if statuses:
        conditions.append(f"status IN ({', '.join('?' * len(statuses))})")
        values += statuses
    place = connection.execute("SELECT started_at, seq FROM runs WHERE run_id = ?", (before,)).fetchone()
    if place is not None:
        conditions.append("(started_at, seq) < (?, ?)")
        values += (place["started_at"], place["seq"])
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(
        f"SELECT * FROM runs {where} ORDER BY started_at DESC, seq DESC LIMIT ?",  # noqa: S608 - constants
        (*values, NO_LIMIT if limit is None else limit),
    )
    return [_run(row) for row in rows][::-1]


def update_run(
    connection: Connection,
    run_id: str,
    status: RunStatus,
    ended_at: str,
    error: str,
    attempt: int | None,
    epoch: int,
    notification: Notification | None,
    following: Sequence[Follower],
) -> None:
    """Set the status of a run; `attempt` begins another one, and deletes what was to follow the last."""
    require_epoch(connection, run_id, epoch)
    connection.execute(
        "UPDATE runs SET status = ?, ended_at = ?, error = ?, attempt = coalesce(?, attempt)"
        " WHERE run_id = ?",
        (status.value, ended_at, storable(error), attempt, run_id),
    )
    if notification is not None:
        notifications.put(connection, notification)
    if attempt is not None:
        followers.delete_of_run(connection, run_id)
    followers.put(connection, following, once=status is RunStatus.COMPLETED)


def delete_run(connection: Connection, run_id: str, epoch: int, followed: Follower | None) -> None:
    """Delete a run, its dead letters, which contain whole records, and all rows that refer to it."""
    require_epoch(connection, run_id, epoch, alone=True)
    connection.overwrite_deleted()
    connection.execute("DELETE FROM dead_letters WHERE run_id = ?", (run_id,))
    connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
    if followed is not None:
        followers.put(connection, [followed])


def insert_splits(
    connection: Connection,
    run_id: str,
    node: str,
    splits: Sequence[Split],
    complete: bool,
    restart: bool,
    epoch: int,
) -> None:
    """Store manifests; known splits are unchanged, and a complete list stays complete."""
    require_epoch(connection, run_id, epoch)
    if restart:
        connection.execute(_DELETE_INCOMPLETE, (run_id, node, run_id, node))
    connection.executemany(
        "INSERT INTO splits (run_id, node, split_key, manifest, first_ordinal) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (run_id, node, split_key) DO NOTHING",
        [
            (run_id, node, split.key, encoded(dict(split.manifest), f"split {split.key!r}"),
             split.first_ordinal)
            for split in splits
        ],
    )  # fmt: skip
    connection.execute(
        "INSERT INTO sources (run_id, node, complete) VALUES (?, ?, ?)"
        " ON CONFLICT (run_id, node) DO UPDATE SET complete = 1 WHERE excluded.complete = 1",
        (run_id, node, int(complete)),
    )


def select_splits(
    connection: Connection, run_id: str, node: str, start: int, limit: int | None
) -> tuple[list[SplitRecord], bool]:
    """Return the splits of a node in insertion order, and whether the list is complete."""
    require_run(connection, run_id)
    first, rows = _first(connection, run_id, node, start), list[Row]()
    if first is not None and limit != 0:
        rows = connection.execute(
            "SELECT * FROM splits LEFT JOIN progress ON progress.split = splits.seq"
            " WHERE run_id = ? AND node = ? AND seq >= ? ORDER BY seq LIMIT ?",
            (run_id, node, first, NO_LIMIT if limit is None else limit),
        ).fetchall()
    acked = _acked(connection, run_id, node, rows)
    splits = [_split(row, acked.get(row["seq"], ())) for row in rows]
    source = connection.execute(
        "SELECT complete FROM sources WHERE run_id = ? AND node = ?", (run_id, node)
    ).fetchone()
    return splits, bool(source and source["complete"])


def _first(connection: Connection, run_id: str, node: str, start: int) -> int | None:
    """Return the number of the split at this position, found with the index alone."""
    if start == 0:
        return 0
    row = connection.execute(
        "SELECT seq FROM splits WHERE run_id = ? AND node = ? ORDER BY seq LIMIT 1 OFFSET ?",
        (run_id, node, start),
    ).fetchone()
    return row["seq"] if row is not None else None


def count_splits(connection: Connection, run_id: str, node: str) -> tuple[int, int]:
    """Return how many splits of a run, or of one of its sources, are done, and their total."""
    require_run(connection, run_id)
    row = connection.execute(
        "SELECT count(CASE WHEN done = 1 THEN 1 END) AS done, count(*) AS total"
        " FROM splits LEFT JOIN progress ON progress.split = splits.seq"
        " WHERE run_id = ?1 AND (?2 = '' OR node = ?2)",
        (run_id, node),
    ).fetchone()
    return row["done"], row["total"]


def divide(connection: Connection, run_id: str, node: str, chunk_splits: int, epoch: int) -> int:
    """Set the number of splits per chunk of a node, unless it is already set; return the number in effect."""
    require_epoch(connection, run_id, epoch)
    connection.execute(
        "INSERT INTO sources (run_id, node, complete, chunk_splits) VALUES (?, ?, 0, ?)"
        " ON CONFLICT (run_id, node) DO UPDATE SET chunk_splits = excluded.chunk_splits"
        " WHERE sources.chunk_splits = 0",
        (run_id, node, chunk_splits),
    )
    return select_divisions(connection, run_id)[node]


def select_divisions(connection: Connection, run_id: str) -> dict[str, int]:
    """Return the number of splits in a chunk, by node."""
    require_run(connection, run_id)
    rows = connection.execute(
        "SELECT node, chunk_splits FROM sources WHERE run_id = ? AND chunk_splits > 0", (run_id,)
    )
    return {row["node"]: row["chunk_splits"] for row in rows}


def progress_row(progress: Progress) -> ProgressRow:
    """Return a snapshot of progress whose tally keeps changing."""
    what = f"the position of split {progress.split_key!r}"
    tally = progress.tally
    counts = (getattr(tally, name) for name in _COUNTS)
    by_node = (encoded(getattr(tally, name), what) for name in _BY_NODE)
    return ProgressRow(
        (encoded(progress.position, what), int(progress.done), progress.read_limit, *counts, *by_node),
        [
            (encoded(one.start, what), encoded(one.end, what), encoded(one.tally.to_json(), what))
            for one in progress.acked
        ],
        [bookmarks.bookmark_row(progress.node, one) for one in progress.bookmarks],
        (progress.node, progress.split_key),
    )


def write_progress(connection: Connection, run_id: str, rows: Sequence[ProgressRow], epoch: int) -> None:
    """Write positions, tallies and bookmarks, unless the run's lease has a higher epoch."""
    require_epoch(connection, run_id, epoch)
    if not rows:
        return
    last = {row.place: row for row in rows}
    values = [(*row.values, run_id, *place) for place, row in last.items()]
    if connection.executemany(_UPSERT_PROGRESS, values).rowcount < len(values):
        raise _no_such_split(connection, run_id, list(last))
    connection.executemany(_DELETE_ACKS, [(run_id, *place) for place in last])
    if acks := [(*ack, run_id, *place) for place, row in last.items() for ack in row.acks]:
        connection.executemany(_INSERT_ACK, acks)
    if committable_bookmarks := [one for row in rows for one in row.bookmarks]:
        bookmarks.put(connection, run_id, committable_bookmarks)


def sum_tally(connection: Connection, run_id: str) -> Tally:
    """Return the sum of the committed tallies of all splits of a run."""
    require_run(connection, run_id)
    total = Tally()
    for row in connection.execute(
        "SELECT progress.* FROM progress JOIN splits ON splits.seq = progress.split"
        " WHERE run_id = ? ORDER BY seq",
        (run_id,),
    ):
        total.add(_tally(row))
    return total


def sum_counts(connection: Connection, run_id: str, node: str) -> Tally:
    """Return the sum of the numbers in the tallies of a run, or of one source, computed by the database."""
    require_run(connection, run_id)
    row = connection.execute(_SUM_COUNTS, (run_id, node)).fetchone()
    assert row is not None, "an aggregate has one row"
    total = Tally()
    for name in _COUNTS:  # PostgreSQL returns sums of integers as decimals
        setattr(total, name, type(getattr(total, name))(row[name]))
    return total


def _no_such_split(connection: Connection, run_id: str, places: Sequence[tuple[str, str]]) -> StateError:
    node, split_key = next(
        place for place in places if connection.execute(_OF_SPLIT, (run_id, *place)).fetchone() is None
    )
    return StateError(f"run {run_id!r} has no split {split_key!r} of node {node!r}")


def _run(row: Row) -> RunRecord:
    what = f"run {row['run_id']!r}"
    if row["status"] not in list(RunStatus):
        raise StateCorruptError(f"{what} in the state store has the unknown status {row['status']!r}")
    return RunRecord(
        run_id=row["run_id"],
        pipeline=row["pipeline"],
        group_id=row["group_id"],
        identity=row["identity"],
        identity_doc=decoded(row["identity_doc"], what),
        operational_doc=decoded(row["operational_doc"], what),
        params=decoded(row["params"], what),
        seed=row["seed"],
        started_at=row["started_at"],
        status=RunStatus(row["status"]),
        ended_at=row["ended_at"],
        error=row["error"],
        attempt=row["attempt"],
    )


def _acked(connection: Connection, run_id: str, node: str, rows: Sequence[Row]) -> dict[int, list[Acked]]:
    """Return acks beyond the positions of these splits of a node, by split; rarely many."""
    what, found = "an ack", dict[int, list[Acked]]()
    if not rows:
        return found
    for row in connection.execute(
        "SELECT acks.* FROM acks JOIN splits ON splits.seq = acks.split"
        " WHERE run_id = ? AND node = ? AND seq BETWEEN ? AND ? ORDER BY seq, start_position",
        (run_id, node, rows[0]["seq"], rows[-1]["seq"]),
    ):
        places = decoded(row["start_position"], what), decoded(row["end_position"], what)
        one = Acked(*places, _whole(decoded(row["tally"], what)))
        found.setdefault(row["split"], []).append(one)
    return found


def _split(row: Row, acked: Sequence[Acked]) -> SplitRecord:
    what = f"split {row['split_key']!r}"
    split = Split(row["split_key"], decoded(row["manifest"], what), row["first_ordinal"])
    if row["split"] is None:  # nothing was committed yet
        return SplitRecord(row["node"], split)
    position = decoded(row["position"], what)
    done = bool(row["done"])
    return SplitRecord(row["node"], split, position, done, _tally(row), acked, row["read_limit"])


def _tally(row: Row) -> Tally:
    by_node = {name: decoded(row[name], "a tally") for name in _BY_NODE if row[name] is not None}
    return _whole({**{name: row[name] for name in _COUNTS}, **by_node})


def _whole(fields: dict[str, Any]) -> Tally:
    """Return the tally of these fields; older versions did not record the node of a count."""
    missing = {name: {"": fields[total]} for name, total in _TOTALS if name not in fields and fields[total]}
    return Tally(**(fields | missing))
