"""The methods of a state store over any SQL database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from engine.contract.acks import Tally
from engine.contract.allowances import Draw
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.state import allowances, bookmarks, dead_letters, journal, leases, ledger
from engine.state.connection import Database
from engine.state.protocol import (
    BookmarkFilter,
    BookmarkRecord,
    BookmarkScope,
    DeadLetterFilter,
    JournalFilter,
    Lease,
    Progress,
    RunRecord,
    RunStatus,
    SplitRecord,
)

__all__ = ["SqlStateStore"]


class SqlStateStore:
    """Implements `StateStore`, which documents the methods, with the SQL of the sibling modules.

    A method whose task is cancelled has either done all of its work or none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    async def create_run(self, run: RunRecord) -> None:
        await self._database.write(ledger.insert_run, run)

    async def get_run(self, run_id: str) -> RunRecord:
        return await self._database.read(ledger.select_run, run_id)

    async def list_runs(
        self,
        *,
        group_id: str = "",
        pipeline: str = "",
        statuses: Collection[RunStatus] = (),
        before: str = "",
        limit: int | None = None,
    ) -> list[RunRecord]:
        names = [status.value for status in statuses]
        return await self._database.read(ledger.select_runs, group_id, pipeline, names, before, limit)

    async def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        ended_at: str = "",
        error: str = "",
        attempt: int | None = None,
        epoch: int = 0,
    ) -> None:
        await self._database.write(ledger.update_run, run_id, status, ended_at, error, attempt, epoch)

    async def delete_run(self, run_id: str, *, epoch: int = 0) -> None:
        await self._database.write(ledger.delete_run, run_id, epoch)

    async def acquire_lease(
        self,
        run_id: str,
        holder: str,
        *,
        now: str,
        until: str,
        dead_holders: Collection[str] = (),
        chunk: str = "",
    ) -> Lease:
        return await self._database.write(leases.acquire, run_id, chunk, holder, now, until, dead_holders)

    async def renew_lease(self, lease: Lease, *, until: str) -> Lease:
        return await self._database.write(leases.renew, lease, until)

    async def release_lease(self, lease: Lease) -> None:
        await self._database.write(leases.release, lease)

    async def get_lease(self, run_id: str, chunk: str = "") -> Lease | None:
        return await self._database.read(leases.select, run_id, chunk)

    async def leases(self, run_id: str) -> list[Lease]:
        return await self._database.read(leases.select_held, run_id)

    async def add_splits(
        self,
        run_id: str,
        node: str,
        splits: Sequence[Split],
        *,
        complete: bool,
        restart: bool = False,
        epoch: int = 0,
    ) -> None:
        await self._database.write(ledger.insert_splits, run_id, node, splits, complete, restart, epoch)

    async def splits(
        self, run_id: str, node: str, *, start: int = 0, limit: int | None = None
    ) -> tuple[list[SplitRecord], bool]:
        return await self._database.read(ledger.select_splits, run_id, node, start, limit)

    async def count_splits(self, run_id: str, node: str = "") -> tuple[int, int]:
        return await self._database.read(ledger.count_splits, run_id, node)

    async def divide(self, run_id: str, node: str, chunk_splits: int, *, epoch: int = 0) -> int:
        return await self._database.write(ledger.divide, run_id, node, chunk_splits, epoch)

    async def divisions(self, run_id: str) -> dict[str, int]:
        return await self._database.read(ledger.select_divisions, run_id)

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        # Claimed before the first await: trackers go on changing their tallies while the thread works, and
        # a tally must never cover more than the position beside it.
        rows = [ledger.progress_row(one) for one in progress]
        await self._database.write(ledger.write_progress, run_id, rows, epoch)

    async def tally(self, run_id: str) -> Tally:
        return await self._database.read(ledger.sum_tally, run_id)

    async def get_bookmarks(
        self, pipeline: str, node: str, scope: str, keys: Collection[str]
    ) -> dict[str, JsonValue]:
        return await self._database.read(bookmarks.select_keys, pipeline, node, scope, list(keys))

    async def list_bookmarks(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        return await self._database.read(bookmarks.select, where)

    async def bookmark_scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        return await self._database.read(bookmarks.count, where)

    async def delete_bookmarks(self, where: BookmarkFilter) -> int:
        return await self._database.write(bookmarks.delete, where)

    async def counts(self, run_id: str) -> Tally:
        return await self._database.read(ledger.sum_counts, run_id)

    async def put_dead_letters(
        self, letters: Sequence[DeadLetter], *, epoch: int | None = None, chunk: str = ""
    ) -> None:
        await self._database.write(dead_letters.put, letters, epoch, chunk)

    async def dead_letters(self, where: DeadLetterFilter) -> list[DeadLetter]:
        return await self._database.read(dead_letters.select, where)

    async def dead_letter_keys(self, run_id: str, chunk: str = "") -> dict[str, set[str]]:
        return await self._database.read(dead_letters.keys_by_node, run_id, chunk)

    async def page_of_dead_letters(
        self, where: DeadLetterFilter, *, error_type: str = "", before: int = 0
    ) -> list[tuple[int, DeadLetter]]:
        return await self._database.read(dead_letters.page, where, error_type, before)

    async def numbered_dead_letter(self, number: int) -> DeadLetter | None:
        return await self._database.read(dead_letters.numbered, number)

    async def dead_letter_causes(self, status: str = "open", limit: int = 50) -> list[tuple[str, str, int]]:
        return await self._database.read(dead_letters.causes, status, limit)

    async def count_dead_letters(self, where: DeadLetterFilter) -> int:
        return await self._database.read(dead_letters.count, where)

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
        await self._database.write(dead_letters.mark, letters, status, reason)

    async def put_journal(self, entries: Sequence[JournalEntry]) -> None:
        await self._database.write(journal.put, entries)

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        return await self._database.read(journal.select_keys, list(keys))

    async def list_journal(self, where: JournalFilter) -> list[JournalEntry]:
        return await self._database.read(journal.select, where)

    async def journal_cost(self, run_id: str, node: str) -> float:
        return await self._database.read(journal.cost, run_id, node)

    async def purge_journal(self, where: JournalFilter) -> int:
        return await self._database.write(journal.delete, where)

    async def draw(self, draws: Sequence[Draw], now: float) -> list[float]:
        return await self._database.write(allowances.draw, draws, now)
