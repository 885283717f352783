"""The state that outlives processes, as a protocol for stores.

A *run* is one execution of one pipeline's plan; `group_id` ties together the runs of one invocation.
Everything about a run's progress is written by `commit`, in one transaction, after the acks it describes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from engine.contract.acks import Tally
from engine.contract.allowances import Draw
from engine.contract.bookmarks import Bookmark
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.contract.types import JsonValue

__all__ = [
    "DURABLE_GROUP",
    "Acked",
    "BookmarkFilter",
    "BookmarkRecord",
    "BookmarkScope",
    "DeadLetterFilter",
    "JournalFilter",
    "Lease",
    "Progress",
    "RunRecord",
    "RunStatus",
    "SplitRecord",
    "StateStore",
]


DURABLE_GROUP = "etl/"
"""Begins the ids of all workflows of runs, and so the groups of durable runs."""


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    OUTAGE = "outage"
    SKIPPED = "skipped"
    """Left out because another run of the pipeline was under way; in reports only, for it is not stored."""

    @property
    def resumable(self) -> bool:
        """Whether the run can be resumed."""
        return self not in (RunStatus.COMPLETED, RunStatus.SKIPPED)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A stored run.

    Args:
        run_id: unique in the store.
        group_id: the invocation it belongs to; of a durable run, the id of its workflow.
        identity: the plan's identity hash.
        identity_doc: what the hash covers, so that a difference can be shown.
        operational_doc: what may change between attempts, without secrets.
        params: the pipeline's parameters as given.
        seed: fixes everything random in the run.
        started_at, ended_at: UTC, ISO 8601; "" when not ended.
        attempt: 1 for a fresh run, one more at each resume.
    """

    run_id: str
    pipeline: str
    group_id: str
    identity: str
    identity_doc: JsonValue
    operational_doc: JsonValue
    params: Mapping[str, JsonValue]
    seed: str
    started_at: str
    status: RunStatus = RunStatus.RUNNING
    ended_at: str = ""
    error: str = ""
    attempt: int = 1

    @property
    def durable(self) -> bool:
        """Whether the run was started on Temporal."""
        return self.group_id.startswith(DURABLE_GROUP)


@dataclass(frozen=True, slots=True)
class Acked:
    """A batch settled out of order: its position in the split, and its tally."""

    start: JsonValue
    end: JsonValue
    tally: Tally


@dataclass(frozen=True, slots=True)
class SplitRecord:
    """A split of a run's source with its committed progress.

    Everything before `position` is settled, and `tally` covers exactly that; `acked` lies beyond it.
    `read_limit`: how many records, from the beginning of the split, may have been read; None if unknown.
    """

    node: str
    split: Split
    position: JsonValue = None
    done: bool = False
    tally: Tally = field(default_factory=Tally)
    acked: Sequence[Acked] = ()
    read_limit: int | None = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a split, in absolute terms, so that writing it twice changes nothing.

    `bookmarks`: the new ones of the node that belong to what lies before `position`. `read_limit`: as in
    `SplitRecord`.
    """

    node: str
    split_key: str
    position: JsonValue
    done: bool
    tally: Tally
    acked: Sequence[Acked] = ()
    bookmarks: Sequence[Bookmark] = ()
    read_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a run or of one chunk of it.

    Args:
        holder: names one attempt of one process: `host:process id:random`.
        epoch: one more at each acquisition within the run, whatever the chunk; the store refuses what an
            overtaken one writes: that of a chunk is overtaken when the same chunk, or the run as a whole, is
            taken again, that of the run as a whole when anything of it is.
        expires_at: UTC, ISO 8601 with milliseconds.
        chunk: names a part of the run's splits that is worked on by itself; "" is the run as a whole.
        acquisitions: how often the chunk and the run as a whole were acquired, this time included: 1
            means that it cannot have been read before.
    """

    run_id: str
    holder: str
    epoch: int
    expires_at: str
    chunk: str = ""
    acquisitions: int = 1


@dataclass(frozen=True, slots=True)
class BookmarkRecord:
    """A stored bookmark. `run_id`: the run that set it, which may be deleted."""

    pipeline: str
    node: str
    scope: str
    key: str
    value: JsonValue
    run_id: str


@dataclass(frozen=True, slots=True)
class BookmarkScope:
    """The number of bookmarks of a node in one scope."""

    pipeline: str
    node: str
    scope: str
    count: int


@dataclass(frozen=True, slots=True)
class BookmarkFilter:
    """Filter of bookmarks; "" and None mean any."""

    pipeline: str = ""
    node: str = ""
    scope: str = ""
    key: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Filter of dead letters; "" and None mean any."""

    run_id: str = ""
    pipeline: str = ""
    node: str = ""
    key: str = ""
    status: str = ""
    limit: int | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class JournalFilter:
    """Filter of journal entries; "" means any.

    Args:
        before: only older ones (UTC, ISO 8601).
        record: only what was paid for the record of this key, or, given the name of an object without its
            version (`bucket/key`), for any version of it.
    """

    run_id: str = ""
    pipeline: str = ""
    model: str = ""
    before: str = ""
    record: str = ""


class StateStore(Protocol):
    """Runs, splits, watermarks with tallies, bookmarks, dead letters, paid answers, and shared limits.

    All methods raise `StateError` subclasses and nothing else: `StateFullError`, `StateReadOnlyError`,
    `StateCorruptError`. `epoch` is the lease's; a store refuses a stale one with `LeaseLostError` (0
    means that no lease is used, which is stale as soon as the run has had one).
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create_run(self, run: RunRecord) -> None:
        """Store a new run. Its id must not exist."""
        ...

    async def get_run(self, run_id: str) -> RunRecord:
        """Raises `RunNotFoundError`, naming the nearest ids."""
        ...

    async def list_runs(
        self,
        *,
        group_id: str = "",
        pipeline: str = "",
        statuses: Collection[RunStatus] = (),
        before: str = "",
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Return runs, oldest first; "" and empty mean any.

        Args:
            before: the id of a run: only earlier ones. One that is not known means nothing.
            limit: only that many of the latest.
        """
        ...

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
        """Set the status of a run."""
        ...

    async def delete_run(self, run_id: str, *, epoch: int = 0) -> None:
        """Delete a run with its splits, leases and dead letters; journal and bookmarks stay."""
        ...

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
            dead_holders: their leases count as expired.
            chunk: "" takes the run as a whole, which has to wait for the holders of all its chunks; a chunk
                has to wait for its own holder and for that of the run as a whole.

        Raises:
            LeaseHeldError: somebody else's lease lasts beyond `now`.
        """
        ...

    async def renew_lease(self, lease: Lease, *, until: str) -> Lease:
        """Renew a lease until then, even if it has expired but was not taken over.

        Raises:
            LeaseLostError: it was taken over, or released.
        """
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Release the lease; its epoch is not reused. Does nothing if the lease was taken over."""
        ...

    async def get_lease(self, run_id: str, chunk: str = "") -> Lease | None:
        """Return the lease of a run or chunk, possibly expired, or None if there is none."""
        ...

    async def leases(self, run_id: str) -> list[Lease]:
        """Return all unreleased leases of a run and its chunks, possibly expired."""
        ...

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
            complete: the source has no more of them.
            restart: a listing starts; what one that was never completed has left is forgotten, since what it
                found may be divided otherwise now.
        """
        ...

    async def splits(
        self, run_id: str, node: str, *, start: int = 0, limit: int | None = None
    ) -> tuple[list[SplitRecord], bool]:
        """Return the splits of a node in insertion order, and whether the list is complete.

        Args:
            start: leave out so many from the front.
            limit: give so many at most.
        """
        ...

    async def count_splits(self, run_id: str, node: str = "") -> tuple[int, int]:
        """Count the done splits and all splits of a run, of all its sources or of one."""
        ...

    async def divide(self, run_id: str, node: str, chunk_splits: int, *, epoch: int = 0) -> int:
        """Set the chunk size of a node's splits for the lifetime of the run.

        Returns:
            How many splits its chunks have: those of an earlier call, when there was one, since leases and
            dead letters have the names of chunks.
        """
        ...

    async def divisions(self, run_id: str) -> dict[str, int]:
        """Return the splits per chunk, by divided node."""
        ...

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        """Write positions with their tallies and bookmarks in one transaction.

        A bookmark belongs to the run's pipeline. It replaces an earlier one, unless that was set by a run
        which was created later and is still remembered: a run that goes on late does not set the clock back.
        """
        ...

    async def get_bookmarks(
        self, pipeline: str, node: str, scope: str, keys: Collection[str]
    ) -> dict[str, JsonValue]:
        """Return the existing values of these keys, by key."""
        ...

    async def list_bookmarks(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        """Return bookmarks ordered by pipeline, node, scope and key."""
        ...

    async def bookmark_scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        """Count matches by pipeline, node and scope, in that order; `limit` is ignored."""
        ...

    async def delete_bookmarks(self, where: BookmarkFilter) -> int:
        """Delete matching bookmarks and return their number; `limit` is ignored."""
        ...

    async def tally(self, run_id: str) -> Tally:
        """Return the sum of the tallies of all splits of a run."""
        ...

    async def counts(self, run_id: str) -> Tally:
        """Return the tally without drops by reason and counts by node; fast for any number of splits."""
        ...

    async def put_dead_letters(
        self, letters: Sequence[DeadLetter], *, epoch: int | None = None, chunk: str = ""
    ) -> None:
        """Store or replace by (run, node, key); attempts add up and the first failure's time stays.

        Args:
            epoch: of the lease of the run they belong to; a stale one is refused. None asks about no lease.
            chunk: in which they failed; "" when the run is not worked on in chunks. One that comes from
                two chunks is kept as one of the run as a whole.
        """
        ...

    async def dead_letters(self, where: DeadLetterFilter) -> list[DeadLetter]:
        """Oldest first."""
        ...

    async def page_of_dead_letters(
        self, where: DeadLetterFilter, *, error_type: str = "", before: int = 0
    ) -> list[tuple[int, DeadLetter]]:
        """Return matches, newest first, with the numbers that they have in the store.

        Args:
            error_type: "" means any.
            before: only those with lower numbers; 0 means all.
        """
        ...

    async def numbered_dead_letter(self, number: int) -> DeadLetter | None:
        """Return the dead letter of this number, if there is one."""
        ...

    async def dead_letter_causes(self, status: str = "open", limit: int = 50) -> list[tuple[str, str, int]]:
        """Count by pipeline and error type, most frequent first."""
        ...

    async def dead_letter_keys(self, run_id: str, chunk: str = "") -> dict[str, set[str]]:
        """Return the keys of a run's dead letters of any status, by node.

        Args:
            chunk: only those that failed in this chunk, or in none; "" gives all.
        """
        ...

    async def count_dead_letters(self, where: DeadLetterFilter) -> int:
        """Count matching dead letters; `limit` is ignored."""
        ...

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
        """Set the status of these (by run, node, key), and why."""
        ...

    async def put_journal(self, entries: Sequence[JournalEntry]) -> None:
        """Store paid answers in one transaction, replacing those with the same key."""
        ...

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        """Return the existing entries of these keys, by key."""
        ...

    async def list_journal(self, where: JournalFilter) -> list[JournalEntry]:
        """Return entries, oldest first, without their texts (`answer`, `prompt` and `reply` are "")."""
        ...

    async def journal_cost(self, run_id: str, node: str) -> float:
        """Return the USD that a run has paid at a node, over all attempts, according to the journal."""
        ...

    async def purge_journal(self, where: JournalFilter) -> int:
        """Delete matching entries and return their number."""
        ...

    async def draw(self, draws: Sequence[Draw], now: float) -> list[float]:
        """Take from shared limits, in one transaction; return how much of each was granted.

        Args:
            now: seconds since 1970, by the wall clock.
        """
        ...
