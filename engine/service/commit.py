"""One transaction for a group of submissions: rows, dead letters, ledger, epochs and dirty marks together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.fault_injection import reached
from engine.service.accounts import ReplacedRows
from engine.service.submission import Delivery, Receipt, RejectedRecord, Submission
from engine.service.system_tables import BatchLedger, DeadLetterStore, EpochStore
from engine.service.tables import SEQUENCE, Table, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Encoded", "GroupCommit"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A submission with its commit sequence and its rows as tuples."""

    submission: Submission
    sequence: int
    rows: list[tuple[Any, ...]]


@dataclass(slots=True)
class _TableRows:
    """What a group does to one table: of rows with one id only the last is kept."""

    table: Table
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    replayed: list[Any] = field(default_factory=list)
    foreign: bool = False
    latest: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    replaced: list[tuple[int, int | None]] = field(default_factory=list)
    """Sequences of rows that are gone, each with that of the row in its place."""

    def add(self, encoded: Encoded, delivery: Delivery) -> None:
        self.rows += encoded.rows
        if delivery == "replay" and self.table.key:
            self.replayed += [row[0] for row in encoded.rows]
        self.foreign |= delivery == "foreign"

    def finish(self) -> None:
        if self.table.key is None:
            return
        self.latest = {row[0]: row for row in self.rows}
        if len(self.latest) < len(self.rows):
            newest = [self.latest[row[0]] for row in self.rows]
            self.replaced = [
                (row[-1], new[-1]) for row, new in zip(self.rows, newest, strict=True) if row is not new
            ]
            self.rows = list(self.latest.values())


class GroupCommit:
    """Commits groups on one connection; used by the writer's thread alone."""

    def __init__(self, connection: DuckDBPyConnection, tables: Iterable[Table]) -> None:
        self._connection = connection
        self._tables = {table.name: table for table in tables}
        self._ledger = BatchLedger(connection)
        self._epochs = EpochStore(connection)
        self._replaced = ReplacedRows(connection)
        self._letters = DeadLetterStore(connection)
        self._open_letters = self._letters.open_tables()
        marks = connection.execute("SELECT table_name FROM _odw_tables WHERE dirty").fetchall()
        self._dirty = {name for (name,) in marks} & self._tables.keys()
        # requests whose rows are gone, or that had none, keep their numbers: they are counted by them
        known = [(name, SEQUENCE) for name in self._tables] + [("_odw_batches", "sequence")]
        self._sequence = max(self._last_sequence(*one) for one in known)

    def _last_sequence(self, table: str, column: str) -> int:
        sql = f"SELECT coalesce(max({column}), 0) FROM {quote(table)}"  # noqa: S608 -- quoted
        found = self._connection.execute(sql).fetchone()
        return int(found[0]) if found else 0

    @property
    def dirty(self) -> frozenset[str]:
        """Tables that may hold several rows with one id."""
        return frozenset(self._dirty)

    def encode(self, submission: Submission) -> Encoded:
        """Give a submission its place in the commit sequence. Raises KeyError, TypeError, ValueError."""
        self._sequence += 1
        table = submission.table
        rows = table.encode(submission.rows, self._sequence) if table is not None else []
        return Encoded(submission, self._sequence, rows)

    def commit(self, group: Sequence[Encoded]) -> list[Receipt]:
        """Commit the group, or nothing of it. Raises duckdb.Error; then call `rollback`."""
        self._connection.begin()
        keys = [item.submission.key for item in group if item.submission.key is not None]
        known = self._ledger.find(keys) if keys else {}
        fresh = [item for item in group if item.submission.key not in known]
        changes = self._changes(fresh)
        scopes = {item.sequence: scope for item in fresh if (scope := item.submission.scope) is not None}
        for change in changes.values():
            self._write(change)
            if change.replaced:
                self._replaced.add(change.table.name, change.replaced, scopes)
        self._put_letters(fresh, changes)
        receipts = {
            id(item): Receipt(
                len(item.submission.rows), tuple(letter.summary() for letter in item.submission.letters)
            )
            for item in fresh
        }
        entries = [
            (item.submission, receipts[id(item)], item.sequence)
            for item in fresh
            if item.submission.key is not None
        ]
        if entries:
            self._ledger.add(entries)
        reached("rows_committing")
        self._connection.commit()
        reached("rows_committed")
        self._dirty |= {name for name, change in changes.items() if change.foreign and change.table.key}
        return [
            receipts[id(item)] if id(item) in receipts else known[item.submission.key or ""].repeated()
            for item in group
        ]

    def rollback(self) -> None:
        """Leave a failed transaction. Raises duckdb.Error when the connection is beyond that."""
        self._connection.rollback()

    def _changes(self, group: Sequence[Encoded]) -> dict[str, _TableRows]:
        changes: dict[str, _TableRows] = {}
        deliveries = self._epochs.deliveries([item.submission for item in group])
        for item, delivery in zip(group, deliveries, strict=True):
            table = item.submission.table
            if table is not None and item.rows:
                changes.setdefault(table.name, _TableRows(table)).add(item, delivery)
        for change in changes.values():
            change.finish()
        return changes

    def _write(self, change: _TableRows) -> None:
        table = change.table
        if change.replayed:
            newest = change.latest
            change.replaced += [
                (gone, newest[id_][-1] if id_ in newest else None)
                for id_, gone in self._delete(table, change.replayed)
            ]
        if change.foreign and table.key and table.name not in self._dirty:
            self._connection.execute("UPDATE _odw_tables SET dirty = true WHERE table_name = ?", [table.name])
        with self._connection.appender(table.name, columns=table.stored_names) as appender:
            appender.append_rows(change.rows)

    def _delete(self, table: Table, ids: Sequence[Any]) -> list[tuple[Any, int]]:
        """Delete the rows that have these ids; returns the id and the sequence of each that there was.

        They are looked up first: `DELETE … RETURNING` reads all columns of all rows to find them, which in a
        large table takes from twice to eight times as long.
        """
        name, key = quote(table.name), quote(table.names[0])
        found = self._connection.execute(
            f"SELECT {key}, {SEQUENCE}, rowid FROM {name} "  # noqa: S608 -- quoted
            f"WHERE {key} IN (SELECT unnest(?::{table.columns[0].sql_type}[]))",
            [ids],
        ).fetchall()
        if found:
            self._connection.execute(
                f"DELETE FROM {name} WHERE rowid IN (SELECT unnest(?::BIGINT[]))",  # noqa: S608 -- quoted
                [[rowid for _, _, rowid in found]],
            )
        return [(id_, gone) for id_, gone, _ in found]

    def _put_letters(self, group: Sequence[Encoded], changes: dict[str, _TableRows]) -> None:
        for name, change in changes.items():
            if name in self._open_letters and change.latest:
                self._letters.recover(name, [str(identifier) for identifier in change.latest])
        letters = [(letter, item.sequence) for item in group for letter in item.submission.letters]
        if not letters:
            return
        self._letters.put([(*pair, self._is_overtaken(*pair, changes)) for pair in letters])
        # Before the commit, but harmless if it fails: it only means one look more.
        self._open_letters |= {letter.table for letter, _ in letters if letter.table is not None}

    @staticmethod
    def _is_overtaken(letter: RejectedRecord, sequence: int, changes: dict[str, _TableRows]) -> bool:
        """Whether a later request of the same group brings a row for the dead letter's record."""
        change = changes.get(letter.table or "")
        row = change.latest.get(letter.record_id) if change is not None else None
        return row is not None and bool(row[-1] > sequence)

    def compact(self, ledger_days: int) -> None:
        """Remove overtaken rows from dirty tables and clear their marks; forget old keys and epochs.

        Raises duckdb.Error; then call `rollback`.
        """
        self._connection.begin()
        for name in self._dirty:
            table, key = quote(name), quote(self._tables[name].names[0])
            self._replaced.add_of_compaction(self._tables[name])
            self._connection.execute(
                f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} QUALIFY row_number() "  # noqa: S608
                f"OVER (PARTITION BY {key} ORDER BY {SEQUENCE} DESC, rowid DESC) > 1)"
            )
            self._connection.execute("UPDATE _odw_tables SET dirty = false WHERE table_name = ?", [name])
        self._ledger.forget(ledger_days)
        self._epochs.forget(ledger_days)
        reached("tables_compacting")
        self._connection.commit()
        self._dirty.clear()
        self._open_letters = self._letters.open_tables()
