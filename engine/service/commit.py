"""Commit a group of submissions in one transaction: rows, dead letters, ledger, epochs and marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.fault_injection import reached
from engine.service.accounts import ReplacedRows
from engine.service.appending import append, append_tables, count_distinct, tuples_of, with_constant
from engine.service.id_index import IdIndexes
from engine.service.retention import Marks, Trimmer
from engine.service.submission import (
    Delivery,
    KeyReusedError,
    Receipt,
    RejectedRecord,
    RequestKey,
    Submission,
)
from engine.service.system_tables import BatchLedger, DeadLetterStore, EpochStore, add_audit
from engine.service.tables import ENCODING_ERRORS, SEQUENCE, MisfitError, Table, number_of, quote

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from duckdb import DuckDBPyConnection


@dataclass(slots=True)
class Encoded:
    """A submission with its commit sequence, its rows as tuples or columns, and all its dead letters."""

    submission: Submission
    sequence: int
    rows: list[tuple[Any, ...]]
    letters: list[RejectedRecord]
    columns: pa.Table | None = None

    @property
    def written(self) -> int:
        """Number of records that count as written, even for models without a table."""
        if self.columns is not None:
            return int(self.columns.num_rows)
        return len(self.rows if self.submission.table is not None else self.submission.rows)

    @property
    def ids(self) -> list[Any]:
        """The first value of each row."""
        if self.columns is not None:
            ids: list[Any] = self.columns.column(0).to_pylist()
            return ids
        return [row[0] for row in self.rows]

    def as_rows(self) -> list[tuple[Any, ...]]:
        """Convert the rows to tuples, for code that handles single rows."""
        if self.columns is not None:
            self.rows, self.columns = tuples_of(self.columns), None
        return self.rows


@dataclass(slots=True)
class _TableRows:
    """The changes of a group to one table; only the last row of an id is kept."""

    table: Table
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    parts: list[Encoded] = field(default_factory=list)
    """Columns, until single rows are needed; `rows` is empty until then."""
    replayed: list[Any] = field(default_factory=list)
    foreign: bool = False
    latest: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    replaced: list[tuple[int, int | None]] = field(default_factory=list)
    """Sequences of removed rows, each with the sequence of its replacement."""

    def add(self, encoded: Encoded, delivery: Delivery, newer: Mapping[int, int]) -> None:
        """Add a submission's rows, except those (by index) whose ids have newer rows.

        The exceptions count as written before the newer rows, and replaced by them.
        """
        self.foreign |= delivery == "foreign"
        is_replay = delivery == "replay" and self.table.key is not None
        if encoded.columns is not None and not newer and not self.rows:
            self.parts.append(encoded)
            if is_replay:
                self.replayed += encoded.ids
            return
        self.as_rows()
        rows = encoded.as_rows()
        if newer:
            rows = [row for place, row in enumerate(rows) if place not in newer]
            self.replaced += [(encoded.sequence, sequence) for sequence in newer.values()]
        self.rows += rows
        if is_replay:
            self.replayed += [row[0] for row in rows]

    def as_rows(self) -> list[tuple[Any, ...]]:
        """Return all rows as tuples, including those in columns."""
        for part in self.parts:
            self.rows += part.as_rows()
        self.parts = []
        return self.rows

    def finish(self, has_letters: bool) -> None:
        """Drop all but the last row of an id. `has_letters`: rows will be looked up for dead letters."""
        if self.table.key is None or (self.parts and not has_letters and self._are_distinct()):
            return
        self.as_rows()
        self.latest = {row[0]: row for row in self.rows}
        if len(self.latest) < len(self.rows):
            newest = [self.latest[row[0]] for row in self.rows]
            self.replaced += [
                (row[-1], new[-1]) for row, new in zip(self.rows, newest, strict=True) if row is not new
            ]
            self.rows = list(self.latest.values())

    def sequence_by_id(self) -> dict[Any, int]:
        """Return the sequence of the last row of each id."""
        if self.parts:
            return {id_: part.sequence for part in self.parts for id_ in part.ids}
        return {row[0]: row[-1] for row in self.rows}

    def _are_distinct(self) -> bool:
        tables = [part.columns for part in self.parts]
        rows: int = sum(table.num_rows for table in tables if table is not None)
        return count_distinct(tables) == rows


class GroupCommit:
    """Commits groups on one connection; used by the writer's thread alone."""

    def __init__(self, connection: DuckDBPyConnection, tables: Iterable[Table]) -> None:
        self._connection = connection
        self._tables = {table.name: table for table in tables}
        self._ledger = BatchLedger(connection)
        self._epochs = EpochStore(connection)
        self._replaced = ReplacedRows(connection)
        self._letters = DeadLetterStore(connection, self._tables)
        self._ids = IdIndexes(connection, self._tables.values())
        self._marks = Marks(connection)
        self._open_letters = self._letters.open_tables()
        marks = connection.execute("SELECT table_name FROM _odw_tables WHERE dirty").fetchall()
        self._dirty = {name for (name,) in marks} & self._tables.keys()
        # requests without rows keep their sequences, since they are counted by them; a reused sequence would
        # make new rows count as old
        known = [(name, SEQUENCE) for name in self._tables]
        known += [("_odw_batches", "sequence"), ("_odw_times", "sequence")]
        each = " UNION ALL ".join(f"(SELECT {column} AS n FROM {quote(table)})" for table, column in known)  # noqa: S608
        self._sequence = number_of(connection, f"SELECT max(n) FROM ({each})")  # noqa: S608 -- quoted

    @property
    def dirty(self) -> frozenset[str]:
        """Tables that may contain duplicate ids."""
        return frozenset(self._dirty)

    def encode(self, submission: Submission) -> Encoded:
        """Assign a commit sequence to a submission; rows that do not fit become dead letters.

        Raises one of `ENCODING_ERRORS` if the submission does not create dead letters.
        """
        self._sequence += 1
        table, letters = submission.table, submission.letters
        if table is None:
            return Encoded(submission, self._sequence, [], letters)
        if submission.columns is not None:
            columns = with_constant(submission.columns, SEQUENCE, self._sequence)
            return Encoded(submission, self._sequence, [], letters, columns)
        try:
            return Encoded(submission, self._sequence, table.encode(submission.rows, self._sequence), letters)
        except ENCODING_ERRORS:
            if submission.refuse is None:
                raise
        return self._fitting(submission, table, self._sequence)

    def encode_again(self, encoded: Encoded) -> Encoded | None:
        """Encode a rejected submission again without the rows that do not fit its table.

        None if all rows fit, or if it does not create dead letters. The rows are the same objects as before.
        """
        submission, table = encoded.submission, encoded.submission.table
        if submission.refuse is None or table is None:
            return None
        again = self._fitting(submission, table, encoded.sequence)
        return again if len(again.rows) < encoded.written else None

    def _fitting(self, submission: Submission, table: Table, sequence: int) -> Encoded:
        assert submission.refuse is not None
        rows: list[tuple[Any, ...]] = []
        letters = list(submission.letters)
        sent = submission.rows if submission.columns is None else submission.columns.to_pylist()
        for place, row in enumerate(sent):
            try:
                rows.append(table.encode_checked(row, sequence))
            except MisfitError as error:
                letters.append(submission.refuse(place, str(error)))
        letters.sort(key=lambda letter: letter.index)
        return Encoded(submission, sequence, rows, letters)

    def commit(self, group: Sequence[Encoded]) -> list[Receipt | KeyReusedError]:
        """Commit the group atomically. Raises duckdb.Error; then call `rollback`."""
        self._connection.begin()
        keyed = [item.submission for item in group if item.submission.key is not None]
        known = self._ledger.find(keyed) if keyed else {}
        fresh = [item for item in group if item.submission.request_key not in known]
        changes = self._changes(fresh)
        scopes = {item.sequence: scope for item in fresh if (scope := item.submission.scope) is not None}
        if fresh:
            self._marks.add(fresh[0].sequence)
        for change in changes.values():
            self._write(change)
            if change.replaced:
                self._replaced.add(change.table.name, change.replaced, scopes)
        self._put_letters(fresh, changes)
        if audit := [entry for item in fresh for entry in item.submission.audit]:
            add_audit(self._connection, audit)
        receipts = {
            id(item): Receipt(item.written, tuple(letter.summary() for letter in item.letters))
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
            receipts[id(item)] if id(item) in receipts else _answer_again(item.submission, known)
            for item in group
        ]

    def rollback(self) -> None:
        """Roll back a failed transaction. Raises duckdb.Error if the connection is unusable."""
        self._epochs.doubt()
        self._ids.forget()
        self._connection.rollback()

    def _changes(self, group: Sequence[Encoded]) -> dict[str, _TableRows]:
        changes: dict[str, _TableRows] = {}
        terms = self._epochs.terms([(item.submission, item.sequence) for item in group])
        scopes = {item.sequence: item.submission.scope for item in group}
        for item, (delivery, overtaken_at) in zip(group, terms, strict=True):
            table = item.submission.table
            if table is not None and item.written:
                change = changes.setdefault(table.name, _TableRows(table))
                newer = self._newer(change, item, overtaken_at) if table.key else {}
                if item.submission.unless_newer is not None and table.key:
                    newer |= self._newer_of_others(change, item, item.submission.unless_newer, scopes)
                change.add(item, delivery, newer)
        has_letters = any(item.letters for item in group)
        for name, change in changes.items():
            change.finish(has_letters or name in self._open_letters)
        return changes

    def _newer_of_others(
        self, change: _TableRows, item: Encoded, sequence: int, scopes: Mapping[int, str | None]
    ) -> dict[int, int]:
        """Like `_newer`, but ignores rows of the item's own scope, of which the last wins."""
        newer, scope = self._newer(change, item, sequence), item.submission.scope
        if not newer or scope is None:
            return newer
        own = self._ledger.of_scope(newer.values(), scope) | {
            number for number, other in scopes.items() if other == scope
        }
        return {place: number for place, number in newer.items() if number not in own}

    def _newer(self, change: _TableRows, item: Encoded, sequence: int | None) -> dict[int, int]:
        """Return the indices of rows whose ids have later rows, with the latest sequence of each."""
        if sequence is None:
            return {}
        table, ids = change.table, [row[0] for row in item.as_rows()]
        name, key = quote(table.name), quote(table.names[0])
        found = self._connection.execute(
            f"SELECT place, max({SEQUENCE}) FROM {name} JOIN (SELECT unnest(range(?)) AS place, "  # noqa: S608
            f"unnest(?::{table.columns[0].sql_type}[]) AS wanted) ON {key} = wanted "
            f"WHERE {SEQUENCE} > ? GROUP BY ALL",
            [len(ids), ids, sequence],
        ).fetchall()
        here = {row[0]: row[-1] for row in change.as_rows() if row[-1] > sequence}
        return {**dict(found), **{place: here[id_] for place, id_ in enumerate(ids) if id_ in here}}

    def _write(self, change: _TableRows) -> None:
        table = change.table
        if change.replayed and (deleted := self._delete(table, change.replayed)):
            newest = change.sequence_by_id()
            change.replaced += [(gone, newest.get(id_)) for id_, gone in deleted]
        if change.foreign and table.key and table.name not in self._dirty:
            self._connection.execute("UPDATE _odw_tables SET dirty = true WHERE table_name = ?", [table.name])
        if change.parts:
            append_tables(self._connection, quote(table.name), [part.columns for part in change.parts])
        elif change.rows:
            append(
                self._connection, quote(table.name), table.stored_types, list(zip(*change.rows, strict=True))
            )

    def _delete(self, table: Table, ids: Sequence[Any]) -> list[tuple[Any, int]]:
        """Delete the rows with these ids; return the id and sequence of each.

        They are looked up first: `DELETE … RETURNING` reads all columns of all rows, which takes two to eight
        times as long in a large table.
        """
        sequences = self._ids.sequences_of(table, ids)
        if sequences is not None and not sequences:
            return []
        name, key = quote(table.name), quote(table.names[0])
        of_ids = f"{name} WHERE {key} IN (SELECT unnest(?::{table.columns[0].sql_type}[]))"
        values: list[object] = [ids]
        if sequences is not None:
            of_ids += f" AND {SEQUENCE} IN (SELECT unnest(?::BIGINT[]))"
            values.append(list(sequences))
        place = "rowid" if table.has_rowid else "NULL"
        found = self._connection.execute(
            f"SELECT {key}, {SEQUENCE}, {place}, hash({key}) FROM {of_ids}",  # noqa: S608 -- quoted
            values,
        ).fetchall()
        if found and table.has_rowid:
            self._connection.execute(
                f"DELETE FROM {name} WHERE rowid IN (SELECT unnest(?::BIGINT[]))",  # noqa: S608 -- quoted
                [[rowid for _, _, rowid, _ in found]],
            )
        elif found:
            self._connection.execute(f"DELETE FROM {of_ids}", values)  # noqa: S608 -- quoted
        self._ids.remove(table, ((number, gone) for _, gone, _, number in found))
        return [(id_, gone) for id_, gone, _, _ in found]

    def _put_letters(self, group: Sequence[Encoded], changes: dict[str, _TableRows]) -> None:
        for name in self._open_letters & changes.keys():
            self._letters.recover(changes[name].table, changes[name].latest)
        for item in group:
            if item.submission.discard is not None:
                self._letters.discard(*item.submission.discard)
            if item.submission.recovered:
                self._letters.recover_ids(item.submission.recovered)
        letters = [(letter, item.sequence) for item in group for letter in item.letters]
        if not letters:
            return
        self._letters.put(letters)
        tables = {letter.table for letter, _ in letters if letter.table is not None}
        for name in tables & changes.keys():  # later requests of the same group
            self._letters.recover(changes[name].table, changes[name].latest)
        # before the commit, but harmless if it fails: it only causes one more lookup
        self._open_letters |= tables

    def compact(self, ledger_days: int) -> None:
        """Remove superseded rows from dirty tables and clear their marks; drop old keys and epochs.

        Raises duckdb.Error; then call `rollback`.
        """
        self._connection.begin()
        self._connection.execute("UPDATE _odw_meta SET version = version")  # tests whether the disk has room
        for name in self._dirty:
            self._replaced.add_of_compaction(self._tables[name])
            self._remove_overtaken(self._tables[name])
            self._connection.execute("UPDATE _odw_tables SET dirty = false WHERE table_name = ?", [name])
        self._ledger.forget(ledger_days)
        self._epochs.forget(ledger_days)
        reached("tables_compacting")
        self._connection.commit()
        self._dirty.clear()
        self._open_letters = self._letters.open_tables()

    def trim(self, trimmer: Trimmer, ledger_days: int) -> None:
        """Remove a portion of the expired data. Raises duckdb.Error; then call `rollback`."""
        if trimmer.begins and self._dirty:
            self.compact(ledger_days)  # duplicates would count as rows
        self._marks.add(self._sequence + 1)
        trimmer.step(self._connection)

    def _remove_overtaken(self, table: Table) -> None:
        name, key = quote(table.name), quote(table.names[0])
        if table.has_rowid:
            self._connection.execute(
                f"DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {name} QUALIFY row_number() "  # noqa: S608
                f"OVER (PARTITION BY {key} ORDER BY {table.newest_first}) > 1)"
            )
            return
        self._connection.execute(  # a request has each id once, so the sequence distinguishes its rows
            f"DELETE FROM {name} USING (SELECT {key} AS _id, max({SEQUENCE}) AS _newest "  # noqa: S608
            f"FROM {name} GROUP BY ALL) AS latest "
            f"WHERE {name}.{key} = latest._id AND {name}.{SEQUENCE} < latest._newest"
        )


def _answer_again(
    submission: Submission, known: Mapping[RequestKey, tuple[Receipt, str | None]]
) -> Receipt | KeyReusedError:
    assert submission.request_key is not None
    receipt, body_hash = known[submission.request_key]
    if submission.is_repeat_of(body_hash):
        return receipt.repeated()
    return KeyReusedError()
