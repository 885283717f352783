"""What the engine keeps between processes, as a protocol that any store can meet.

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
    """How a run stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    OUTAGE = "outage"
    SKIPPED = "skipped"
    """Left out because another run of the pipeline was under way; in reports only, for it is not stored."""

    @property
    def resumable(self) -> bool:
        """True when `--resume` may go on with it."""
        return self not in (RunStatus.COMPLETED, RunStatus.SKIPPED)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

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
        """True for a run that was begun on Temporal."""
        return self.group_id.startswith(DURABLE_GROUP)


@dataclass(frozen=True, slots=True)
class Acked:
    """A batch that is settled although one before it is not: its place in the split, and its tally."""

    start: JsonValue
    end: JsonValue
    tally: Tally


@dataclass(frozen=True, slots=True)
class SplitRecord:
    """A split of a run's source with its committed progress.

    Everything before `position` is settled, and `tally` covers exactly that; `acked` lies beyond it.
    """

    node: str
    split: Split
    position: JsonValue = None
    done: bool = False
    tally: Tally = field(default_factory=Tally)
    acked: Sequence[Acked] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a split is: all in absolute terms, so that writing it twice changes nothing.

    `bookmarks`: those of the node that stand for what lies before `position`, as far as they are new.
    """

    node: str
    split_key: str
    position: JsonValue
    done: bool
    tally: Tally
    acked: Sequence[Acked] = ()
    bookmarks: Sequence[Bookmark] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a run, or on one chunk of it.

    Args:
        holder: names one attempt of one process: `host:process id:random`.
        epoch: one more at each acquisition within the run, whatever the chunk; the store refuses what an
            overtaken one writes: that of a chunk is overtaken when the same chunk, or the run as a whole, is
            taken again, that of the run as a whole when anything of it is.
        expires_at: UTC, ISO 8601 with milliseconds.
        chunk: names a part of the run's splits that is worked on by itself; "" is the run as a whole.
        acquisitions: how often the chunk and the run as a whole were acquired, this time included: 1
            means that nobody can have read any of it before.
    """

    run_id: str
    holder: str
    epoch: int
    expires_at: str
    chunk: str = ""
    acquisitions: int = 1


@dataclass(frozen=True, slots=True)
class BookmarkRecord:
    """A bookmark as it is stored. `run_id`: the run that has set it, which may be forgotten by now."""

    pipeline: str
    node: str
    scope: str
    key: str
    value: JsonValue
    run_id: str


@dataclass(frozen=True, slots=True)
class BookmarkScope:
    """How many bookmarks a node of a pipeline has in one scope."""

    pipeline: str
    node: str
    scope: str
    count: int


@dataclass(frozen=True, slots=True)
class BookmarkFilter:
    """Which bookmarks; "" and None mean any."""

    pipeline: str = ""
    node: str = ""
    scope: str = ""
    key: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters; "" and None mean any."""

    run_id: str = ""
    pipeline: str = ""
    node: str = ""
    key: str = ""
    status: str = ""
    limit: int | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class JournalFilter:
    """Which entries of the journal; "" means any. `before`: only older ones (UTC, ISO 8601)."""

    run_id: str = ""
    pipeline: str = ""
    model: str = ""
    before: str = ""


class StateStore(Protocol):
    """Runs, splits, watermarks with tallies, bookmarks, dead letters, and the journal of paid answers.

    All methods raise `StateError` subclasses and nothing else: `StateFullError`, `StateReadOnlyError`,
    `StateCorruptError`. `epoch` is the lease's; a store refuses a stale one with `LeaseLostError` (0
    means that no lease is used, which is stale as soon as the run has had one).
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create_run(self, run: RunRecord) -> None:
        """Store a new run. A run of that id must not exist."""
        ...

    async def get_run(self, run_id: str) -> RunRecord:
        """Raises `RunNotFoundError`, naming the nearest ids."""
        ...

    async def list_runs(self, *, group_id: str = "", pipeline: str = "") -> list[RunRecord]:
        """Oldest first."""
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
        """Set how a run stands."""
        ...

    async def delete_run(self, run_id: str, *, epoch: int = 0) -> None:
        """Remove a run with its splits, its lease and its dead letters; journal and bookmarks stay."""
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
        """Give the run, or a chunk of it, to `holder` until `until`, under the next epoch.

        Args:
            dead_holders: their leases count as expired.
            chunk: "" takes the run as a whole, which has to wait for the holders of all its chunks; a chunk
                has to wait for its own holder and for that of the run as a whole.

        Raises:
            LeaseHeldError: somebody else's lease lasts beyond `now`.
        """
        ...

    async def renew_lease(self, lease: Lease, *, until: str) -> Lease:
        """The same lease until then. One that has expired and that nobody has taken is renewed too.

        Raises:
            LeaseLostError: it was taken over, or released.
        """
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Give the run back; its epoch is not used again. Nothing happens when the lease was taken over."""
        ...

    async def get_lease(self, run_id: str, chunk: str = "") -> Lease | None:
        """The lease of a run or a chunk, which may have expired; None when never taken, or given back."""
        ...

    async def leases(self, run_id: str) -> list[Lease]:
        """All leases of a run and of its chunks that were not given back; some may have expired."""
        ...

    async def add_splits(
        self,
        run_id: str,
        node: str,
        splits: Sequence[Split],
        *,
        complete: bool,
        anew: bool = False,
        epoch: int = 0,
    ) -> None:
        """Store manifests before their splits are read; adding a split again changes nothing.

        Args:
            complete: the source has no more of them.
            anew: a listing begins; what one that was never completed has left is forgotten, since what it
                found may be divided otherwise now.
        """
        ...

    async def splits(
        self, run_id: str, node: str, *, start: int = 0, limit: int | None = None
    ) -> tuple[list[SplitRecord], bool]:
        """The splits of a node in the order they were added, and whether all are known.

        Args:
            start: leave out so many from the front.
            limit: give so many at most.
        """
        ...

    async def count_splits(self, run_id: str, node: str = "") -> tuple[int, int]:
        """How many splits of a run are done, and how many there are; of all its sources, or of one."""
        ...

    async def divide(self, run_id: str, node: str, chunk_splits: int, *, epoch: int = 0) -> int:
        """Have the splits of a node worked on in chunks of so many, for as long as the run exists.

        Returns:
            How many splits its chunks have: those of an earlier call, when there was one, since leases and
            dead letters have the names of chunks.
        """
        ...

    async def divisions(self, run_id: str) -> dict[str, int]:
        """How many splits a chunk has, by node; without those that are not divided."""
        ...

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        """Write positions, the tallies they cover and the bookmarks they have earned in one transaction.

        A bookmark belongs to the run's pipeline. It replaces an earlier one, unless that was set by a run
        which was created later and is still remembered: a run that goes on late does not set the clock back.
        """
        ...

    async def get_bookmarks(
        self, pipeline: str, node: str, scope: str, keys: Collection[str]
    ) -> dict[str, JsonValue]:
        """The values of these keys, as far as there are any, by key."""
        ...

    async def list_bookmarks(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        """In order of pipeline, node, scope and key."""
        ...

    async def bookmark_scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        """How many match, by pipeline, node and scope, in that order; `limit` is ignored."""
        ...

    async def delete_bookmarks(self, where: BookmarkFilter) -> int:
        """Delete those that match; returns how many. `limit` is ignored."""
        ...

    async def tally(self, run_id: str) -> Tally:
        """The sum over all splits of a run: the figures of every report."""
        ...

    async def counts(self, run_id: str) -> Tally:
        """The same without drops by reason and figures by node: quick, however many splits there are."""
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

    async def dead_letter_keys(self, run_id: str, chunk: str = "") -> dict[str, set[str]]:
        """The keys of dead letters of a run, whatever became of them, by node.

        Args:
            chunk: only those that failed in this chunk, or in none; "" gives all.
        """
        ...

    async def count_dead_letters(self, where: DeadLetterFilter) -> int:
        """How many there are; `limit` is ignored."""
        ...

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str) -> None:
        """Set the status of these (by run, node, key)."""
        ...

    async def put_journal(self, entries: Sequence[JournalEntry]) -> None:
        """Store paid answers in one transaction; one of the same key is replaced."""
        ...

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        """The entries of these keys, as far as there are any, by key."""
        ...

    async def list_journal(self, where: JournalFilter) -> list[JournalEntry]:
        """Oldest first, all without their answers (`answer` is "")."""
        ...

    async def journal_cost(self, run_id: str, node: str) -> float:
        """USD that a run has paid at a node, in all of its attempts, for what is in the journal."""
        ...

    async def purge_journal(self, where: JournalFilter) -> int:
        """Delete the entries that match; returns how many."""
        ...
