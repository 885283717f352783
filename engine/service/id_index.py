"""Where the rows of an id are: an index in memory, by hash, that spares replays a look through whole tables.

It knows the commit sequences that rows of an id may have. The table keeps rows of one request together, so
with these DuckDB reads a few row groups in place of all, and for ids that are new none. What it says is
never too little: entries of rows that are gone may stay, and the table itself compares the ids.
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

__all__ = ["IdIndexes"]

MAX_ROWS = 8_000_000
"""Rows of a table with an index, at 16 bytes each; larger ones are looked through."""

MAX_RECENT = 128_000
"""Rows that are added one by one before the index is built anew; each takes some 150 bytes."""


class IdIndex:
    """The index of one table, built at its first use. Used inside the writer's transaction.

    It catches up with the table by itself, which has to happen before the transaction adds rows to it.
    """

    def __init__(self, connection: DuckDBPyConnection, table: Table) -> None:
        self._connection = connection
        self._name, self._key = quote(table.name), quote(table.names[0])
        self._last: int | None = None  # the latest commit sequence in it; None before it is built
        self._hashes: Sequence[int] = ()
        self._sequences: Sequence[int] = ()
        self._recent: dict[int, tuple[int, ...]] = {}
        self._added = 0  # rows since it was built

    def sequences_of(self, ids: Sequence[Any]) -> set[int] | None:
        """The commit sequences of the rows with these ids, and maybe others; None when it does not know."""
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
        """Whether the index holds all rows now."""
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
        """Forget rows, by hash and sequence, that are being deleted: an id may come again without end."""
        for number, sequence in rows:
            entries = list(self._recent.get(number, ()))
            if sequence in entries:  # else it is older than the index
                entries.remove(sequence)  # one row: another id may have the same hash
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
            f"SELECT hash({self._key}) AS hash, {SEQUENCE} FROM {self._name} ORDER BY hash"  # noqa: S608 -- quoted
        ).to_arrow_table()
        self._hashes, self._sequences = map(_numbers, sorted_rows.columns)
        self._last = last
        return True


class IdIndexes:
    """The indexes of all tables that can have one: those whose ids are text, where pyarrow is installed."""

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
        except Exception:  # for want of memory: the transaction has failed, and the next does without
            self._failed.add(table.name)
            raise

    def remove(self, table: Table, rows: Iterable[tuple[int, int]]) -> None:
        """See `IdIndex.remove`."""
        if (index := self._indexes.get(table.name)) is not None:
            index.remove(rows)

    def forget(self) -> None:
        """Build them again when they are next used: a transaction has failed."""
        tables = self._tables if has_arrow() else []
        self._indexes = {table.name: IdIndex(self._connection, table) for table in tables}


def _numbers(column: pa.ChunkedArray) -> Sequence[int]:
    """The numbers of a column of 64-bit integers without nulls, as they lie in memory."""
    import pyarrow as pa

    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    is_unsigned: bool = pa.types.is_unsigned_integer(array.type)
    numbers = memoryview(array.buffers()[1]).cast("B").cast("Q" if is_unsigned else "q")
    return numbers[array.offset : array.offset + len(array)]
