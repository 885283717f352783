"""Persistent state in the tables of an SQL database.

A *run* is one execution of one pipeline's plan; `group_id` connects the runs of one invocation. `commit`
writes all progress of a run in one transaction, after the acks that it describes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Self

from engine.contract.acks import Tally
from engine.contract.allowances import Draw
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.state import (
    allowances,
    bookmarks,
    dead_letters,
    followers,
    journal,
    leases,
    ledger,
    notifications,
)
from engine.state.connection import Database
from engine.state.records import (
    BookmarkFilter,
    BookmarkRecord,
    BookmarkScope,
    DeadLetterFilter,
    Follower,
    JournalFilter,
    Lease,
    Notification,
    Progress,
    RunRecord,
    RunStatus,
    SplitRecord,
)


class StateStore:
    """Runs, splits, watermarks with tallies, bookmarks, dead letters, paid answers, and shared limits.

    All methods raise only `StateError` and its subclasses, e.g. `StateFullError`, `StateReadOnlyError`,
    `StateCorruptError`. `epoch` is the lease's; a store rejects a stale one with `LeaseLostError` (0 means no
    lease, which is stale once the run has had one). A method whose task is cancelled has done either all of
    its work or none.

    Args:
        database: has the tables; the SQL is in the sibling modules.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()

    async def create_run(self, run: RunRecord, *, follows: Follower | None = None) -> None:
        """Store a new run. Its id must not exist.

        Args:
            follows: the stored follower that this run replaces; if it is no longer there, `RunExistsError`
                is raised and nothing stored.
        """
        await self._database.write(ledger.insert_run, run, follows)

    async def get_run(self, run_id: str) -> RunRecord:
        """Return a run. Raises `RunNotFoundError` with the nearest ids."""
        return await self._database.read(ledger.select_run, run_id)

    async def list_runs(
        self,
        *,
        group_id: str = "",
        pipeline: str = "",
        identity: str = "",
        statuses: Collection[RunStatus] = (),
        before: str = "",
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Return runs, oldest first; "" and empty mean any.

        Args:
            before: id of a run: only earlier ones. An unknown id has no effect.
            limit: only that many of the latest.
        """
        names = [status.value for status in statuses]
        wanted = {"group_id": group_id, "pipeline": pipeline, "identity": identity}
        return await self._database.read(ledger.select_runs, wanted, names, before, limit)

    async def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        ended_at: str = "",
        error: str = "",
        attempt: int | None = None,
        epoch: int = 0,
        notification: Notification | None = None,
        followers: Sequence[Follower] = (),
    ) -> None:
        """Set the status of a run; store its notification and what follows in the same transaction.

        Args:
            attempt: begins another attempt, and deletes what was to follow the last one.
        """
        await self._database.write(
            ledger.update_run, run_id, status, ended_at, error, attempt, epoch, notification, followers
        )

    async def followers(self, group_id: str = "") -> list[Follower]:
        """Return the pipelines that have to start after runs that ended; "" means of all groups."""
        return await self._database.read(followers.select, group_id)

    async def delete_follower(self, follower: Follower) -> None:
        """Delete a follower that cannot be started, if it is there."""
        await self._database.write(followers.delete, follower)

    async def notifications(self) -> list[Notification]:
        """Return the notifications that were not accepted yet, oldest first."""
        return await self._database.read(notifications.select)

    async def delete_notification(self, run_id: str, attempt: int) -> None:
        """Delete the notification of an attempt, if it is there."""
        await self._database.write(notifications.delete, run_id, attempt)

    async def delete_old_notifications(self, before: str) -> int:
        """Delete notifications of runs that ended before this time, and return their number."""
        return await self._database.write(notifications.delete_older, before)

    async def delete_run(self, run_id: str, *, epoch: int = 0, followed: Follower | None = None) -> None:
        """Delete a run with its splits, leases and dead letters; journal and bookmarks are kept.

        Args:
            followed: stored again, because the run has not begun.
        """
        await self._database.write(ledger.delete_run, run_id, epoch, followed)

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
        """Acquire the lease of a run or chunk for `holder` until `until`, with the next epoch.

        Args:
            dead_holders: holders whose leases count as expired.
            chunk: "" acquires the whole run, which has to wait for the holders of all its chunks; a chunk has
                to wait for its own holder and that of the whole run.

        Raises:
            LeaseHeldError: another holder's lease is valid beyond `now`.
        """
        return await self._database.write(leases.acquire, run_id, chunk, holder, now, until, dead_holders)

    async def renew_lease(self, lease: Lease, *, until: str) -> Lease:
        """Renew a lease until `until`, even if it has expired but was not taken over.

        Raises:
            LeaseLostError: it was taken over, or released.
        """
        return await self._database.write(leases.renew, lease, until)

    async def release_lease(self, lease: Lease) -> None:
        """Release the lease; its epoch is not reused. Does nothing if the lease was taken over."""
        await self._database.write(leases.release, lease)

    async def leases(self, run_id: str) -> list[Lease]:
        """Return all unreleased leases of a run and its chunks, possibly expired."""
        return await self._database.read(leases.select, run_id)

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
        """Store manifests before their splits are read; adding a split again changes nothing.

        Args:
            complete: the source has no further splits.
            restart: a listing starts; the splits of an incomplete one are deleted, since the input may be
                divided differently now.
        """
        await self._database.write(ledger.insert_splits, run_id, node, splits, complete, restart, epoch)

    async def splits(
        self, run_id: str, node: str, *, start: int = 0, limit: int | None = None
    ) -> tuple[list[SplitRecord], bool]:
        """Return the splits of a node in insertion order, and whether the list is complete.

        Args:
            start: number of splits to skip.
            limit: maximum of splits to return.
        """
        return await self._database.read(ledger.select_splits, run_id, node, start, limit)

    async def count_splits(self, run_id: str, node: str = "") -> tuple[int, int]:
        """Count the finished splits and all splits of a run, of all its sources or of one."""
        return await self._database.read(ledger.count_splits, run_id, node)

    async def divide(self, run_id: str, node: str, chunk_splits: int, *, epoch: int = 0) -> int:
        """Set the chunk size of a node's splits for the lifetime of the run.

        Returns:
            The splits per chunk in effect: those of an earlier call, if any, since leases and dead letters
            refer to chunks by name.
        """
        return await self._database.write(ledger.divide, run_id, node, chunk_splits, epoch)

    async def divisions(self, run_id: str) -> dict[str, int]:
        """Return the splits per chunk, by divided node."""
        return await self._database.read(ledger.select_divisions, run_id)

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        """Write positions with their tallies and bookmarks in one transaction.

        A bookmark belongs to the run's pipeline. It replaces an earlier one, unless that was set by a run
        created later that still exists, so a late resume sets no bookmark back.
        """
        # copied before the first await: trackers keep changing their tallies while the thread works, and a
        # tally must never cover more than its position
        rows = [ledger.progress_row(one) for one in progress]
        await self._database.write(ledger.write_progress, run_id, rows, epoch)

    async def tally(self, run_id: str) -> Tally:
        """Return the sum of the tallies of all splits of a run."""
        return await self._database.read(ledger.sum_tally, run_id)

    async def get_bookmarks(
        self, pipeline: str, node: str, scope: str, keys: Collection[str]
    ) -> dict[str, JsonValue]:
        """Return the existing values of these keys, by key."""
        return await self._database.read(bookmarks.select_keys, pipeline, node, scope, list(keys))

    async def list_bookmarks(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        """Return bookmarks ordered by pipeline, node, scope and key."""
        return await self._database.read(bookmarks.select, where)

    async def bookmark_scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        """Count matches by pipeline, node and scope, in that order; `limit` is ignored."""
        return await self._database.read(bookmarks.count, where)

    async def delete_bookmarks(self, where: BookmarkFilter) -> int:
        """Delete matching bookmarks and return their number; `limit` is ignored."""
        return await self._database.write(bookmarks.delete, where)

    async def counts(self, run_id: str, node: str = "") -> Tally:
        """Return the tally of a run, or of one source, without drops by reason and counts by node.

        Fast for any number of splits.
        """
        return await self._database.read(ledger.sum_counts, run_id, node)

    async def put_dead_letters(
        self, letters: Sequence[DeadLetter], *, epoch: int | None = None, chunk: str = ""
    ) -> None:
        """Store or replace by (run, node, key); attempts add up and the time of the first failure is kept.

        Args:
            epoch: epoch of their run's lease; a stale one is rejected. None skips this check.
            chunk: the chunk in which they failed; "" without chunks. A dead letter of two chunks is stored as
                one of the whole run.
        """
        await self._database.write(dead_letters.put, letters, epoch, chunk)

    async def dead_letters(self, where: DeadLetterFilter) -> list[DeadLetter]:
        """Return matching dead letters, oldest first."""
        return await self._database.read(dead_letters.select, where)

    async def dead_letter_keys(self, run_id: str, chunk: str = "") -> dict[str, set[str]]:
        """Return the keys of a run's dead letters of any status, by node.

        Args:
            chunk: only those that failed in this chunk, or outside of chunks; "" returns all.
        """
        return await self._database.read(dead_letters.keys_by_node, run_id, chunk)

    async def page_of_dead_letters(
        self, where: DeadLetterFilter, *, error_type: str = "", before: int = 0
    ) -> list[tuple[int, DeadLetter]]:
        """Return matches, newest first, with their numbers in the store.

        Args:
            error_type: "" means any.
            before: only lower numbers; 0 means all.
        """
        return await self._database.read(dead_letters.page, where, error_type, before)

    async def numbered_dead_letter(self, number: int) -> DeadLetter | None:
        """Return the dead letter with this number, if any."""
        return await self._database.read(dead_letters.numbered, number)

    async def dead_letter_causes(self, status: str = "open", limit: int = 50) -> list[tuple[str, str, int]]:
        """Count by pipeline and error type, most frequent first."""
        return await self._database.read(dead_letters.causes, status, limit)

    async def count_dead_letters(self, where: DeadLetterFilter) -> int:
        """Count matching dead letters; `limit` is ignored."""
        return await self._database.read(dead_letters.count, where)

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
        """Set status and reason of these dead letters (by run, node, key)."""
        await self._database.write(dead_letters.mark, letters, status, reason)

    async def put_journal(self, entries: Sequence[JournalEntry], forget: Collection[str] = ()) -> None:
        """Store paid answers in one transaction, replacing those with the same key; delete `forget`."""
        await self._database.write(journal.put, entries, forget)

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        """Return the existing entries of these keys, by key."""
        return await self._database.read(journal.select_keys, list(keys))

    async def list_journal(self, where: JournalFilter) -> list[JournalEntry]:
        """Return answers, oldest first, without their texts (`answer`, `prompt` and `reply` are "")."""
        return await self._database.read(journal.select, where)

    async def journal_cost(self, run_id: str, node: str = "") -> float:
        """Return the USD that a run has paid over all attempts, according to the journal.

        Args:
            node: only count this node.
        """
        return await self._database.read(journal.cost, run_id, node)

    async def purge_journal(self, where: JournalFilter) -> int:
        """Delete matching answers and return their number.

        Pending entries are kept for `KEPT_PENDING`.
        """
        return await self._database.write(journal.delete, where)

    async def draw(self, draws: Sequence[Draw], now: float) -> list[float]:
        """Draw from shared limits, in one transaction; return the granted amounts.

        Args:
            now: seconds since 1970, by the wall clock.
        """
        return await self._database.write(allowances.draw, draws, now)
