"""The journal of paid answers as SQL. Every function here runs inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final

from engine.contract.clock import timestamp
from engine.contract.journal import PENDING, JournalEntry
from engine.state.connection import Connection, Row, Value
from engine.state.dead_letters import storable
from engine.state.records import JournalFilter

KEPT_PENDING: Final = timedelta(days=30)
"""How long endpoints keep the answers of a batch job."""

_KEYS_AT_ONCE: Final = 500  # SQLite before 3.32 allows 999 parameters

_COLUMNS: Final = (
    "key", "answer", "outcome", "model", "tokens_in", "tokens_out", "cost_usd", "this_run_only", "record",
    "prompt", "reply",
    "run_id", "pipeline", "node", "created_at",
)  # fmt: skip

_TEXTS: Final = ("answer", "prompt", "reply")  # columns that may be large and contain text of documents

_fields: Final = attrgetter(*_COLUMNS)

_PUT: Final = f"""
INSERT INTO journal ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "key")}
"""  # noqa: S608 - constants

_WHERE: Final = f"""
WHERE outcome <> '{PENDING}' AND (?1 = '' OR run_id = ?1) AND (?2 = '' OR pipeline = ?2)
    AND (?3 = '' OR model = ?3) AND (?4 = '' OR created_at < ?4)
"""

_INDEXED: Final = 500  # characters of a record's key in the index
_OF_A_RECORD: Final = """
    AND substr(record, 1, 500) BETWEEN ?5 AND ?6 AND (record = ?7 OR record >= ?8 AND record < ?9)
"""


def put(connection: Connection, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
    """Store or replace entries by key, and delete the keys to forget."""
    if entries:
        connection.executemany(_PUT, map(_values, entries))
    if forget:
        connection.executemany("DELETE FROM journal WHERE key = ?", [(key,) for key in forget])


def select_keys(connection: Connection, keys: Sequence[str]) -> dict[str, JournalEntry]:
    """Return the entries of these keys, in the keys' order."""
    found: dict[str, JournalEntry] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        part = keys[start : start + _KEYS_AT_ONCE]
        marks = ", ".join("?" * len(part))
        for row in connection.execute(f"SELECT * FROM journal WHERE key IN ({marks})", part):  # noqa: S608 - marks
            found[row["key"]] = replace(_entry(row), **{name: row[name] for name in _TEXTS})
    return {key: found[key] for key in keys if key in found}


def select(connection: Connection, where: JournalFilter) -> list[JournalEntry]:
    """Return matching answers, oldest first, without their texts."""
    columns = ", ".join(name for name in _COLUMNS if name not in _TEXTS)
    conditions, values = _criteria(where)
    rows = connection.execute(
        f"SELECT {columns} FROM journal {conditions} ORDER BY created_at, seq",  # noqa: S608 - constants
        values,
    )
    return [_entry(row) for row in rows]


def cost(connection: Connection, run_id: str, node: str) -> float:
    """Return the USD that a run has paid at a node, or at all its nodes."""
    where, values = ("run_id = ? AND node = ?", (run_id, node)) if node else ("run_id = ?", (run_id,))
    usd: float = connection.execute(
        f"SELECT coalesce(sum(cost_usd), 0.0) AS usd FROM journal WHERE {where}",  # noqa: S608 - constants
        values,
    ).fetchone()["usd"]
    return usd


def delete(connection: Connection, where: JournalFilter) -> int:
    """Delete matching answers, and old entries of pending ones."""
    connection.overwrite_deleted()
    old = timestamp(datetime.now(UTC) - KEPT_PENDING)
    connection.execute("DELETE FROM journal WHERE outcome = ? AND created_at < ?", (PENDING, old))
    conditions, values = _criteria(where)
    return connection.execute(f"DELETE FROM journal {conditions}", values).rowcount  # noqa: S608 - constants


def _criteria(where: JournalFilter) -> tuple[str, tuple[str, ...]]:
    values = (where.run_id, where.pipeline, where.model, where.before)
    if not where.record:
        return _WHERE, values
    record = storable(where.record)
    versions, beyond = f"{record}@", f"{record}A"  # "A" comes right after "@"
    between = (record[:_INDEXED], beyond[:_INDEXED])
    return _WHERE + _OF_A_RECORD, (*values, *between, record, versions, beyond)


def _values(entry: JournalEntry) -> tuple[Value, ...]:
    return tuple([storable(value) if isinstance(value, str) else _number(value) for value in _fields(entry)])


def _number(value: float | bool) -> Value:
    return int(value) if isinstance(value, bool) else value


def _entry(row: Row) -> JournalEntry:
    """Return the entry without its texts."""
    fields = {name: row[name] for name in _COLUMNS if name not in (*_TEXTS, "this_run_only")}
    return JournalEntry(**fields, answer="", this_run_only=bool(row["this_run_only"]))
