"""The ledger in a PostgreSQL database: which records of a run its tables have.

Before a transaction adds records of a split, it locks the split and counts its entries. If the number differs
from what this process knows, a transaction that seemed lost was committed, or another process writes the same
split; then the entries are read again first.
"""
# ruff: noqa: S608 -- only constants are formatted in

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from connectors.tables.deliveries import KEEP_DAYS, Entry, LedgerRow
from connectors.tables.names import quote_table

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_NAME: Final = "_odw_batches"
_REPLACED: Final = "*replaced*"
_SCOPE: Final = "run = %s AND node = %s AND target = %s"


class StaleError(Exception):
    """The entries of a split differ from what this process knows."""


class Ledger:
    """The entries of a node's run about one table.

    Args:
        run: id of the run.
        node: pipeline and node.
        target: the table.
    """

    def __init__(self, run: str, node: str, target: str) -> None:
        self._scope = [run, node, target]
        # in the schema of the table, where its user may create tables
        self._schema = target.rpartition(".")[0]
        self._table = quote_table(f"{self._schema}.{_NAME}".lstrip("."))
        self._entries: dict[str, int] = {}

    async def prepare(self, connection: Connection) -> None:
        """Create the table, and delete entries that are too old."""
        async with connection.transaction():
            await self.lock(connection, [("schema", self._table)])
            # only the table's owner may create an index, even IF NOT EXISTS, and other users write to it too
            known = await connection.execute(
                "SELECT to_regclass(format('%%I.%%I', coalesce(%s, current_schema(), 'public'), %s::text))",
                [self._schema or None, f"{_NAME}_by_split"],
            )
            if await known.fetchone() == (None,):
                await self._create(connection)
        await connection.execute(
            f"DELETE FROM {self._table} WHERE committed_at < now() - interval '{KEEP_DAYS} days'".encode()
        )

    async def _create(self, connection: Connection) -> None:
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (run text NOT NULL, node text NOT NULL, "
            "target text NOT NULL, split text NOT NULL, records bigint NOT NULL, ranges text NOT NULL, "
            "hashes bigint[] NOT NULL, committed_at timestamptz NOT NULL DEFAULT now())".encode()
        )
        await connection.execute(
            f"CREATE INDEX IF NOT EXISTS {_NAME}_by_split "
            f"ON {self._table} (run, node, target, split)".encode()
        )

    async def lock(self, connection: Connection, names: Sequence[Sequence[str]]) -> None:
        """Lock these names until the transaction ends, always in the same order."""
        numbers = sorted({_number("\n".join(name)) for name in names})
        await connection.execute(
            "SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) AS number", [numbers]
        )

    async def known(self, connection: Connection, split: str) -> list[LedgerRow]:
        """Return the entries of a split."""
        cursor = await connection.execute(
            f"SELECT ranges, hashes FROM {self._table} WHERE {_SCOPE} AND split = %s".encode(),
            [*self._scope, _stored(split)],
        )
        rows: list[LedgerRow] = [(ranges, hashes) for ranges, hashes in await cursor.fetchall()]
        self._entries[split] = len(rows)
        return rows

    async def check(self, connection: Connection, splits: Sequence[str]) -> None:
        """Lock the splits and check that their entries are the known ones.

        Raises:
            StaleError: they differ.
        """
        await self.lock(connection, [(*self._scope, split) for split in splits])
        cursor = await connection.execute(
            f"SELECT split, count(*) FROM {self._table} "
            f"WHERE {_SCOPE} AND split = ANY(%s) GROUP BY split".encode(),
            [*self._scope, [_stored(split) for split in splits]],
        )
        found: dict[str, int] = dict(await cursor.fetchall())
        if any(found.get(_stored(split), 0) != self._entries.get(split, 0) for split in splits):
            raise StaleError

    async def add(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Add the entries of a transaction."""
        async with connection.cursor() as cursor:
            await cursor.executemany(
                f"INSERT INTO {self._table} (run, node, target, split, records, ranges, hashes) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
                [[*self._scope, _stored(one.split), one.records, one.ranges, one.hashes] for one in entries],
            )

    def committed(self, entries: Sequence[Entry]) -> None:
        """Count the entries of a transaction that was committed."""
        for entry in entries:
            self._entries[entry.split] = self._entries.get(entry.split, 0) + 1

    async def count(self, connection: Connection) -> int:
        """Return the number of records of the run that the table has."""
        cursor = await connection.execute(
            f"SELECT coalesce(sum(records), 0)::bigint FROM {self._table} WHERE {_SCOPE}".encode(),
            self._scope,
        )
        return int((await cursor.fetchall())[0][0])

    async def forget(self, connection: Connection) -> None:
        """Remove the entries of a complete run, which no longer needs them."""
        await connection.execute(f"DELETE FROM {self._table} WHERE {_SCOPE}".encode(), self._scope)

    async def is_replaced(self, connection: Connection) -> bool:
        """Return whether the rows of the run have replaced the others."""
        cursor = await connection.execute(
            f"SELECT 1 FROM {self._table} WHERE {_SCOPE} AND split = %s".encode(), [*self._scope, _REPLACED]
        )
        return bool(await cursor.fetchall())

    async def note_replaced(self, connection: Connection) -> None:
        """Record that the rows of the run have replaced the others."""
        await self.add(connection, [Entry(_REPLACED, "[]", [], 0)])


def _stored(split: str) -> str:
    """Replace NUL, which PostgreSQL's text cannot contain."""
    return split.replace("\0", "\\0")


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
