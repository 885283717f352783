"""Track which records of a run are in a table, without transactions.

Before a batch is inserted, an entry records its records and its number of rows. The rows carry the number of
the batch, so after an interruption the table shows whether all, none or some of them arrived; some are
deleted. An entry whose rows did not arrive is cancelled by another of sign -1.
"""
# ruff: noqa: S608 -- names and texts are quoted

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final
from uuid import uuid4

import orjson

from connectors.clickhouse.client import Client, text
from connectors.clickhouse.tables import BATCH, Table
from connectors.tables.deliveries import KEEP_DAYS, Entry, LedgerRow
from engine.contract.clock import Clock
from engine.errors import TransientError

_NAME: Final = "_odw_batches"
_REPLACED: Final = "*replaced*"
_COLUMNS: Final = "run, node, target, split, batch, total, records, ranges, hashes, sign"
_LOOKS: Final = 300
_LOOK_SECONDS: Final = 0.2


class Ledger:
    """The entries of a node's run about one table, in `_odw_batches` of the table's database.

    Args:
        client: client of the server.
        scope: run, pipeline, node and target.
        target: the table.
        clock: for waiting.
    """

    def __init__(self, client: Client, scope: Sequence[str], target: Table, clock: Clock) -> None:
        self._client = client
        self._values = list(scope)
        self._table = target.beside(_NAME).sql
        self._clock = clock
        self._generation = uuid4().hex
        digest = blake2b("\n".join(scope).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        self._prefix = f"odw-{digest}-"
        run, node, named = map(text, scope)
        self._scope = f"run = {run} AND node = {node} AND target = {named}"

    async def prepare(self) -> None:
        """Create the table. ClickHouse deletes entries that are too old."""
        await self._client.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (run String, node String, target String, "
            "split String, batch UInt64, total UInt64, records Int64, ranges String, hashes Array(Int64), "
            "sign Int8, committed_at DateTime DEFAULT now()) ENGINE = MergeTree "
            f"ORDER BY (run, node, target, split) TTL committed_at + INTERVAL {KEEP_DAYS} DAY"
        )

    def number(self, entries: Sequence[Entry]) -> int:
        """Return the number of the batch; a retry of the same records gets the same one."""
        said = orjson.dumps([self._generation, [[one.split, one.ranges, one.hashes] for one in entries]])
        return int.from_bytes(blake2b(said, digest_size=8).digest(), "big") >> 1 or 1

    def query_id(self, batch: int) -> str:
        """Return the query id of a batch's INSERT."""
        return f"{self._prefix}{batch:x}-{uuid4().hex[:8]}"

    async def announce(self, batch: int, entries: Sequence[Entry]) -> None:
        """Record what is about to be inserted."""
        total = sum(one.records for one in entries)
        await self._add(
            [[one.split, batch, total, one.records, one.ranges, one.hashes, 1] for one in entries]
        )

    async def take_back(self, batch: int, entries: Sequence[Entry]) -> None:
        """Cancel the entry of a batch that was refused: none of its rows was inserted."""
        total = sum(one.records for one in entries)
        await self._add(
            [[one.split, batch, total, -one.records, one.ranges, one.hashes, -1] for one in entries]
        )

    async def known(self, split: str, rows: Table) -> list[LedgerRow]:
        """Return the entries of a split whose rows are all in the table.

        Deletes the rows of incomplete INSERTs, and cancels the entries of batches that were not inserted.

        Raises:
            TransientError: an INSERT of the run is still executing.
        """
        await self.wait_for_inserts()
        where = f"{self._scope} AND split = {text(split)}"
        entries = await self._client.fetch(
            f"SELECT batch, total, max(records), ranges, hashes FROM {self._table} WHERE {where} "
            "GROUP BY batch, total, ranges, hashes HAVING sum(sign) > 0"
        )
        if not entries:
            return []
        ids = f"(SELECT batch FROM {self._table} WHERE {where})"
        counted = await self._client.fetch(
            f"SELECT {BATCH}, count() FROM {rows.sql} WHERE {BATCH} IN {ids} GROUP BY 1"
        )
        there = {int(batch): int(count) for batch, count in counted}
        lost = [entry for entry in entries if there.get(int(entry[0]), 0) != int(entry[1])]
        if lost:
            await self._forsake(split, rows, lost, there)
        return [(entry[3], list(map(int, entry[4]))) for entry in entries if entry not in lost]

    async def _forsake(
        self, split: str, rows: Table, lost: Sequence[list[object]], there: dict[int, int]
    ) -> None:
        broken = [str(entry[0]) for entry in lost if int(str(entry[0])) in there]
        if broken:
            # new numbers from now on: the server would ignore these as duplicates, though their rows are
            # deleted
            self._generation = uuid4().hex
            await self._client.execute(
                f"ALTER TABLE {rows.sql} DELETE WHERE {BATCH} IN ({', '.join(broken)}) "
                "SETTINGS mutations_sync = 2"
            )
        await self._add(
            [
                [split, batch, total, -int(str(records)), ranges, hashes, -1]
                for batch, total, records, ranges, hashes in lost
            ]
        )

    async def wait_for_inserts(self) -> None:
        """Wait until no INSERT of the run is executing: one whose client is gone may still be committed.

        Raises:
            TransientError: one is still executing.
        """
        for _ in range(_LOOKS):
            ((running,),) = await self._client.fetch(
                f"SELECT count() FROM system.processes WHERE startsWith(query_id, {text(self._prefix)})"
            )
            if not int(running):
                return
            await self._clock.sleep(_LOOK_SECONDS)
        raise TransientError("the server is still executing an INSERT of this run")

    async def announced(self) -> int:
        """Return the number of records of the run that the table should have."""
        return await self._number(f"SELECT sum(records) FROM {self._table} WHERE {self._scope}")

    async def count(self, rows: Table) -> int:
        """Return the number of rows of the run that the table has."""
        ids = f"(SELECT batch FROM {self._table} WHERE {self._scope})"
        return await self._number(f"SELECT count() FROM {rows.sql} WHERE {BATCH} IN {ids}")

    async def _number(self, query: str) -> int:
        ((number,),) = await self._client.fetch(query)
        return int(number)

    async def forget(self) -> None:
        """Remove the entries of a complete run, which no longer needs them."""
        await self._client.execute(
            f"ALTER TABLE {self._table} DELETE WHERE {self._scope} AND split != {text(_REPLACED)} "
            "SETTINGS mutations_sync = 1"
        )

    async def replacement(self) -> set[str]:
        """Return the notes about the replacement of the table."""
        found = await self._client.fetch(
            f"SELECT ranges FROM {self._table} WHERE {self._scope} AND split = {text(_REPLACED)}"
        )
        return {str(noted) for (noted,) in found}

    async def note_replacement(self, what: str) -> None:
        """Note the UUID of the table that is about to replace the other, or that it has replaced it."""
        await self._add([[_REPLACED, 0, 0, 0, what, [], 0]])

    async def _add(self, rows: Sequence[Sequence[object]]) -> None:
        await self._client.execute(
            f"INSERT INTO {self._table} ({_COLUMNS}) "
            "SETTINGS async_insert = 0, insert_deduplicate = 0 FORMAT JSONCompactEachRow",
            b"\n".join(orjson.dumps([*self._values, *row]) for row in rows),
        )
