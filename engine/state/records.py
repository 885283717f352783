"""Values of the state store: runs, splits, progress, leases, and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.contract.acks import Tally
from engine.contract.bookmarks import Bookmark
from engine.contract.split import Split
from engine.contract.types import JsonValue

DURABLE_GROUP = "etl/"
"""Prefix of the ids of all workflows of runs, and so of the groups of durable runs."""


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    OUTAGE = "outage"
    SKIPPED = "skipped"
    """Skipped because another run of the pipeline was in progress; only in reports, never stored."""

    @property
    def resumable(self) -> bool:
        """Whether the run can be resumed."""
        return self not in (RunStatus.COMPLETED, RunStatus.SKIPPED)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A stored run.

    Args:
        run_id: unique in the store.
        group_id: its invocation; for a durable run, the id of its workflow.
        identity: the plan's identity hash.
        identity_doc: the hashed document, to show differences.
        operational_doc: settings that may change between attempts, without secrets.
        params: the given parameters of the pipeline.
        seed: seeds all randomness of the run.
        started_at, ended_at: UTC, ISO 8601; "" when not ended.
        attempt: 1 for a new run, incremented by each resume.
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

    @property
    def began(self) -> datetime:
        """When the run was first started."""
        return datetime.fromisoformat(self.started_at)

    @property
    def ended(self) -> datetime | None:
        """When its last attempt ended; None while it runs."""
        return datetime.fromisoformat(self.ended_at) if self.ended_at else None


@dataclass(frozen=True, slots=True)
class Acked:
    """A batch settled out of order: its position in the split, and its tally."""

    start: JsonValue
    end: JsonValue
    tally: Tally


@dataclass(frozen=True, slots=True)
class SplitRecord:
    """A split of a run's source with its committed progress.

    Everything before `position` is settled and covered by `tally`; `acked` has batches beyond it.
    `read_limit`: maximum of records, from the beginning of the split, that may have been read; None if
    unknown.
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
    """The progress of a split in absolute values, so that writing it twice changes nothing.

    `bookmarks`: new bookmarks of the node for records before `position`. `read_limit`: as in
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
    """The lease of a run or of a chunk of it.

    Args:
        holder: identifies an attempt of a process: `host:process id:random`.
        epoch: incremented by each acquisition within the run, of any chunk. The store rejects writes with a
            superseded epoch: that of a chunk is superseded when the same chunk or the whole run is acquired
            again, that of the whole run by any acquisition.
        expires_at: UTC, ISO 8601 with milliseconds.
        chunk: names a part of the run's splits that is processed separately; "" is the whole run.
        acquisitions: how often the chunk and the whole run were acquired, including this time; 1 means that
            the chunk cannot have been read before.
    """

    run_id: str
    holder: str
    epoch: int
    expires_at: str
    chunk: str = ""
    acquisitions: int = 1


@dataclass(frozen=True, slots=True)
class Follower:
    """A pipeline that has to start because a run of its group ended; stored until its run is."""

    group_id: str
    pipeline: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Notification:
    """The result of a run as `notify` posts it, until the receiver has accepted it.

    Args:
        message: what is posted; without record data.
        ended_at: UTC, ISO 8601.
    """

    run_id: str
    attempt: int
    pipeline: str
    message: Mapping[str, JsonValue]
    ended_at: str


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
        before: only older entries (UTC, ISO 8601).
        record: only entries of the record with this key, or, given the name of an object without its version
            (`bucket/key`), of any version of it.
    """

    run_id: str = ""
    pipeline: str = ""
    model: str = ""
    before: str = ""
    record: str = ""
