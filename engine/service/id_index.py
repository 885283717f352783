"""An in-memory index of the rows of each id, by hash, so that replays need not scan whole tables.

It has the commit sequences that rows of an id may have. The table stores the rows of a request together, so
with these DuckDB reads a few row groups instead of all, and none for new ids. The index is complete; entries
of deleted rows may remain, because the query compares the ids in the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.service.appending import has_arrow
from engine.service.tables import SEQUENCE, Table, quote

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from duckdb import DuckDBPyConnection

MAX_ROWS = 8_000_000
"""Maximum rows of a table with an index, at 16 bytes each; larger tables are scanned."""

MAX_RECENT = 128_000
"""Rows added one by one before the index is rebuilt; each takes about 150 bytes."""


class IdIndex:
    """The index of one table, built at its first use.

    Each use first adds the rows committed since the last one. Use it inside the writer's transaction, before
    that adds rows.
    """

    def __init__(self, connection: DuckDBPyConnection, table: Table) -> None:
        self._connection = connection
        self._name, self._key = quote(table.name), quote(table.names[0])
        self._last: int | None = None  # the latest indexed commit sequence; None before the index is built
        self._hashes: Sequence[int] = ()
        self._sequences: Sequence[int] = ()
        self._recent: dict[int, tuple[int, ...]] = {}
        self._added = 0  # rows since it was built

    def sequences_of(self, ids: Sequence[Any]) -> set[int] | None:
        """Return at least the commit sequences of rows with these ids; None if the table is too large."""
        if not self._catch_up():
            return None
        hashes = self._connection.execute("SELECT DISTINCT hash(unnest(?::VARCHAR[]))", [ids]).fetchall()
        found: set[int] = set()
        for (number,) in hashes:
            place = bisect_left(self._hashes, number)
            while place < len(self._hashes) and self._hashes[place] == number:
                found.add(self._sequences[place])
                place += 1
            found.update(self._recent.get(number, ()))
        return found

    def _catch_up(self) -> bool:
        """Add the latest rows, or build the index; False if the table is too large."""
        if self._last is None:
            return self._build()
        rows = self._connection.execute(
            f"SELECT hash({self._key}), {SEQUENCE} FROM {self._name} "  # noqa: S608 -- quoted
            f"WHERE {SEQUENCE} > ? LIMIT ?",
            [self._last, MAX_RECENT + 1],
        ).fetchall()
        self._added += len(rows)
        if self._added > MAX_RECENT:
            return self._build()
        for number, sequence in rows:
            self._recent[number] = (*self._recent.get(number, ()), sequence)
        self._last = max((sequence for _, sequence in rows), default=self._last)
        return True

    def remove(self, rows: Iterable[tuple[int, int]]) -> None:
        """Forget rows that are being deleted, by hash and sequence, so that one id cannot fill the index."""
        for number, sequence in rows:
            entries = list(self._recent.get(number, ()))
            if sequence in entries:  # otherwise it is older than the index
                entries.remove(sequence)  # only one, since another id may have the same hash
                self._recent[number] = tuple(entries)

    def _build(self) -> bool:
        self._hashes, self._sequences, self._recent, self._last = (), (), {}, None
        self._added = 0
        ((rows, last),) = self._connection.execute(
            f"SELECT count(*), coalesce(max({SEQUENCE}), 0) FROM {self._name}"  # noqa: S608 -- quoted
        ).fetchall()
        if rows > MAX_ROWS:
            return False
        sorted_rows = self._connection.sql(
            f"SELECT hash({self._key}) AS hash, {SEQUENCE}::UBIGINT "  # noqa: S608 -- quoted
            f"FROM {self._name} ORDER BY hash"
        ).to_arrow_table()
        self._hashes, self._sequences = map(_numbers, sorted_rows.columns)
        self._last = last
        return True


class IdIndexes:
    """The indexes of all tables with text ids; requires pyarrow."""

    def __init__(self, connection: DuckDBPyConnection, tables: Iterable[Table]) -> None:
        self._connection = connection
        self._tables = [table for table in tables if table.key and table.columns[0].sql_type == "VARCHAR"]
        self._failed: set[str] = set()
        self.forget()

    def sequences_of(self, table: Table, ids: Sequence[Any]) -> set[int] | None:
        """See `IdIndex.sequences_of`."""
        index = self._indexes.get(table.name)
        if index is None or table.name in self._failed:
            return None
        try:
            return index.sequences_of(ids)
        except Exception:  # out of memory: this transaction fails, and later ones do without the index
            self._failed.add(table.name)
            raise

    def remove(self, table: Table, rows: Iterable[tuple[int, int]]) -> None:
        """See `IdIndex.remove`."""
        if (index := self._indexes.get(table.name)) is not None:
            index.remove(rows)

    def forget(self) -> None:
        """Rebuild the indexes at their next use, after a failed transaction."""
        tables = self._tables if has_arrow() else []
        self._indexes = {table.name: IdIndex(self._connection, table) for table in tables}


def _numbers(column: pa.ChunkedArray) -> Sequence[int]:
    """Return the numbers of a UBIGINT column without nulls, without copying."""
    array = column.combine_chunks()
    return memoryview(array.buffers()[1]).cast("Q")[array.offset : array.offset + len(array)]
