"""Remove old rows and closed dead letters, a portion at a time.

Rows have the sequence of their commit, but no time. `_odw_times` has the times of some sequences, so the age
of a row is known to within `MARK_EVERY`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING

from engine.service.accounts import ReplacedRows
from engine.service.settings import Keep, Retention
from engine.service.storage import Reader
from engine.service.system_tables import utc_now
from engine.service.tables import SEQUENCE, Table, number_of, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_log = logging.getLogger(__name__)

PORTION = 20_000
"""Maximum rows removed by one step, unless one request brought more."""
LOOK_EVERY = 60.0
"""Seconds from the end of one pass to the next."""
PAUSE = 0.1
"""Seconds between two steps of a pass, in which the writer commits waiting submissions."""
MARK_EVERY = 600.0
DEAD_LETTERS = "dead letters"
_NEVER = 2**63 - 1


class Marks:
    """Records the times of commit sequences. Used inside the writer's transaction."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection
        self._next = 0.0
        self._latest = number_of(connection, "SELECT max(sequence) FROM _odw_times")

    def add(self, sequence: int) -> None:
        """Record that this and higher sequences are assigned from now on, unless recently recorded."""
        if time.monotonic() < self._next or sequence <= self._latest:
            return
        self._connection.execute("INSERT INTO _odw_times VALUES (?, ?)", [sequence, utc_now()])
        self._next, self._latest = time.monotonic() + MARK_EVERY, sequence


class Trimmer:
    """Removes data beyond the retention. Used only by the writer's thread.

    Attributes:
        removed: rows and dead letters removed so far, by table.
        due: when the next step is due, on the monotonic clock.
    """

    def __init__(self, retention: Retention, tables: Mapping[str, Table]) -> None:
        self.removed: Counter[str] = Counter()
        self.due = 0.0
        self._retention = retention
        self._tables = tables
        self._pass: Counter[str] = Counter()

    @property
    def begins(self) -> bool:
        """Whether the next step is the first of a pass."""
        return not self._pass

    def postpone(self) -> None:
        """Postpone the next step until the next pass."""
        self.due = time.monotonic() + LOOK_EVERY

    def step(self, connection: DuckDBPyConnection) -> None:
        """Remove one portion in a separate transaction. Raises duckdb.Error; then roll back."""
        connection.begin()
        name, count = self._remove(connection)
        connection.commit()
        self.removed[name] += count
        self._pass[name] += count
        if count:
            self.due = time.monotonic() + PAUSE
        else:
            self.postpone()
            for place, total in (+self._pass).items():
                what = "closed dead letters" if place == DEAD_LETTERS else f"rows of {place}"
                _log.info("retention removed %s %s", f"{total:,}", what)
            self._pass.clear()

    def _remove(self, connection: DuckDBPyConnection) -> tuple[str, int]:
        """Remove a portion, and return its table and the number removed."""
        for name, keep in self._retention.tables.items():
            if count := _remove_rows(connection, self._tables[name], keep):
                return name, count
        return DEAD_LETTERS, _remove_letters(connection, self._retention.dead_letters)


def _remove_rows(connection: DuckDBPyConnection, table: Table, keep: Keep) -> int:
    """Remove the rows of some requests, oldest first; return the number of rows."""
    name = quote(table.name)
    requests: list[tuple[int, int]] = []
    if keep.seconds is not None:
        oldest = utc_now() - timedelta(seconds=keep.seconds)
        mark = number_of(connection, "SELECT max(sequence) FROM _odw_times WHERE noted_at <= ?", oldest)
        requests = _oldest_requests(connection, name, mark)
    if not requests and keep.rows is not None:
        # a table may have become dirty since the pass began, and duplicates do not count as rows
        current = Reader(connection).rows_of(table)
        excess = number_of(connection, f"SELECT count(*) FROM {current}") - keep.rows  # noqa: S608 -- quoted
        requests = _oldest_requests(connection, name, _NEVER) if excess > 0 else []
        while requests and sum(count for _, count in requests) > excess:
            requests.pop()
    if not requests:
        return 0
    gone = [(sequence, None) for sequence, count in requests for _ in range(count)]
    ReplacedRows(connection).add(table.name, gone, {})
    connection.execute(f"DELETE FROM {name} WHERE {SEQUENCE} <= ?", [requests[-1][0]])  # noqa: S608 -- quoted
    return len(gone)


def _oldest_requests(connection: DuckDBPyConnection, name: str, below: int) -> list[tuple[int, int]]:
    """Return (sequence, number of rows) of the oldest requests below a sequence that form a portion."""
    first = number_of(connection, f"SELECT min({SEQUENCE}) FROM {name}")  # noqa: S608 -- quoted
    requests = connection.execute(
        f"SELECT {SEQUENCE}, count(*) FROM {name} WHERE {SEQUENCE} < ? "  # noqa: S608 -- quoted
        f"GROUP BY {SEQUENCE} ORDER BY {SEQUENCE}",
        [min(below, first + PORTION)],
    ).fetchall()
    ends = accumulate(count for _, count in requests)
    return requests[: max(1, sum(end <= PORTION for end in ends))]


def _remove_letters(connection: DuckDBPyConnection, keep: Keep) -> int:
    closed = "_odw_dead_letters WHERE status <> 'open'"
    most = 0
    if keep.rows is not None:
        most = max(0, number_of(connection, f"SELECT count(*) FROM {closed}") - keep.rows)  # noqa: S608 -- constant
    if keep.seconds is not None:
        oldest = utc_now() - timedelta(seconds=keep.seconds)
        most = max(most, number_of(connection, f"SELECT count(*) FROM {closed} AND closed_at < ?", oldest))  # noqa: S608
    if not most:
        return 0
    found = connection.execute(
        f"SELECT dead_letter_id FROM {closed} ORDER BY closed_at, dead_letter_id LIMIT ?",  # noqa: S608 -- constant
        [min(most, PORTION)],
    ).fetchall()
    ids = [identifier for (identifier,) in found]
    of_ids = "WHERE dead_letter_id IN (SELECT unnest(?::VARCHAR[]))"
    connection.execute(
        f"INSERT INTO _odw_removed_letters SELECT dead_letter_id, ? FROM _odw_dead_letters {of_ids}",  # noqa: S608
        [utc_now(), ids],
    )
    connection.execute(f"DELETE FROM _odw_dead_letters {of_ids}", [ids])  # noqa: S608 -- constant
    return len(ids)
