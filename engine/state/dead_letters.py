"""Dead letters as SQL. Every function here runs inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.contract.dead_letter import DeadLetter
from engine.errors import StateError
from engine.state.connection import NO_LIMIT, Connection, Row
from engine.state.encoding import decoded, encoded
from engine.state.fencing import require_epoch
from engine.state.records import DeadLetterFilter

STATUSES = ("open", "replayed", "recovered", "discarded")

_UPSERT = """
INSERT INTO dead_letters (run_id, pipeline, node, key, stage, error_type, error_message, record, reference,
    attempts, first_failed_at, last_failed_at, status, chunk)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id, node, key) DO UPDATE SET
    pipeline = excluded.pipeline, stage = excluded.stage, error_type = excluded.error_type,
    error_message = excluded.error_message, record = excluded.record, reference = excluded.reference,
    attempts = dead_letters.attempts + excluded.attempts, last_failed_at = excluded.last_failed_at,
    status = excluded.status, reason = '',
    chunk = CASE WHEN dead_letters.chunk = excluded.chunk THEN excluded.chunk ELSE '' END
"""

_WHERE = """
WHERE (?1 = '' OR run_id = ?1) AND (?2 = '' OR pipeline = ?2) AND (?3 = '' OR node = ?3)
    AND (?4 = '' OR key = ?4) AND (?5 = '' OR status = ?5)
    AND (?6 = '' OR stage = ?6)
"""


def put(
    connection: Connection, letters: Sequence[DeadLetter], epoch: int | None = None, chunk: str = ""
) -> None:
    """Store or replace by (run, node, key), unless the run has a higher epoch."""
    if epoch is not None:
        for run_id in {letter.run_id for letter in letters}:
            require_epoch(connection, run_id, epoch)
    connection.executemany(_UPSERT, [(*_values(letter), chunk) for letter in letters])


def select(connection: Connection, where: DeadLetterFilter) -> list[DeadLetter]:
    """Return matching dead letters, oldest first."""
    rows = connection.execute(
        f"SELECT * FROM dead_letters {_WHERE} ORDER BY first_failed_at, seq LIMIT ?7",  # noqa: S608 - constants
        (*_criteria(where), NO_LIMIT if where.limit is None else where.limit),
    )
    return [_letter(row) for row in rows]


def page(
    connection: Connection, where: DeadLetterFilter, error_type: str, before: int
) -> list[tuple[int, DeadLetter]]:
    """Return matching dead letters, newest first, with their numbers; `before` 0 starts at the newest."""
    rows = connection.execute(
        f"SELECT * FROM dead_letters {_WHERE} AND (?8 = '' OR error_type = ?8) AND (?9 = 0 OR seq < ?9)"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?7",
        (*_criteria(where), NO_LIMIT if where.limit is None else where.limit, error_type, before),
    )
    return [(row["seq"], _letter(row)) for row in rows]


def numbered(connection: Connection, number: int) -> DeadLetter | None:
    """Return the dead letter with this number in the store."""
    row = connection.execute("SELECT * FROM dead_letters WHERE seq = ?", (number,)).fetchone()
    return _letter(row) if row is not None else None


def causes(connection: Connection, status: str, limit: int) -> list[tuple[str, str, int]]:
    """Return (pipeline, error type, number) of one status, most frequent first."""
    rows = connection.execute(
        "SELECT pipeline, error_type, count(*) AS number FROM dead_letters WHERE status = ?"
        " GROUP BY pipeline, error_type ORDER BY number DESC, pipeline, error_type LIMIT ?",
        (status, limit),
    )
    return [(row["pipeline"], row["error_type"], row["number"]) for row in rows]


def keys_by_node(connection: Connection, run_id: str, chunk: str) -> dict[str, set[str]]:
    """Return the keys of a run's dead letters, by node; with a chunk, only its own and chunkless ones."""
    keys: dict[str, set[str]] = {}
    of_run = "SELECT node, key FROM dead_letters WHERE run_id = ?"
    if chunk:
        rows = connection.execute(f"{of_run} AND chunk IN ('', ?)", (run_id, chunk))
    else:
        rows = connection.execute(of_run, (run_id,))
    for row in rows:
        keys.setdefault(row["node"], set()).add(row["key"])
    return keys


def count(connection: Connection, where: DeadLetterFilter) -> int:
    """Count matching dead letters."""
    found = connection.execute(f"SELECT count(*) AS number FROM dead_letters {_WHERE}", _criteria(where))  # noqa: S608
    number: int = found.fetchone()["number"]
    return number


def mark(connection: Connection, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
    """Set status and reason of existing dead letters."""
    check_status(status)
    connection.executemany(
        "UPDATE dead_letters SET status = ?, reason = ? WHERE run_id = ? AND node = ? AND key = ?",
        [(status, storable(reason), letter.run_id, letter.node, storable(letter.key)) for letter in letters],
    )


def check_status(status: str) -> None:
    """Raise `StateError` for an invalid dead-letter status."""
    if status not in STATUSES:
        raise StateError(f"{status!r} is not a dead-letter status: choose from {', '.join(STATUSES)}")


def storable(text: str) -> str:
    r"""Return text that any store accepts: a lone surrogate becomes its escape `\udcXX`.

    NUL is escaped too, since PostgreSQL cannot store it. A dead letter that cannot be stored would stop the
    run.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _criteria(where: DeadLetterFilter) -> tuple[str, ...]:
    return (where.run_id, where.pipeline, where.node, storable(where.key), where.status, where.stage)


def _values(letter: DeadLetter) -> tuple[str | int, ...]:
    check_status(letter.status)
    return (
        letter.run_id, letter.pipeline, letter.node, storable(letter.key), letter.stage,
        storable(letter.error_type), storable(letter.error_message),
        encoded(letter.record, f"the record of dead letter {letter.key!r}"),
        storable(letter.reference), letter.attempts, letter.first_failed_at, letter.last_failed_at,
        letter.status,
    )  # fmt: skip


def _letter(row: Row) -> DeadLetter:
    fields = {name: row[name] for name in DeadLetter.__dataclass_fields__ if name != "record"}
    return DeadLetter(**fields, record=decoded(row["record"], f"dead letter {row['key']!r}"))
