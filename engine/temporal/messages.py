"""Messages of workflows and activities: references and counts, never records or secrets.

Plain dataclasses, which Temporal's default converter and web page show as JSON. Every request has a version,
and all fields have defaults, because histories outlive deployments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from temporalio.common import SearchAttributeKey

PARAMS_BYTES = 2048
"""Maximum bytes of run parameters, which are stored in the history; put larger ones into the file."""

ALL_PARAMS_BYTES = 64 * 1024
"""Maximum bytes of the parameters of a pipeline and all its followers."""

MAX_WINDOW = 200
"""Maximum concurrent chunks of a shard; the server allows 2,000 activities per workflow."""

MAX_SHARDS = 500
"""Maximum shards of a run over all sources; the server allows 2,000 children per workflow."""

MAX_PARKED = 100
"""Maximum failed chunks that a shard parks before it gives up; keeps its state small."""

MAX_NAMED = 20
"""Maximum failed chunks named in the result of a run."""

AWAY = frozenset({"SourceUnavailable", "ProviderThrottled", "SinkUnavailable", "Outage"})
"""Types of failures (`engine.execution.failure_types`) that mean an unavailable service."""

PIPELINE = SearchAttributeKey.for_keyword("OdwPipeline")
RUN = SearchAttributeKey.for_keyword("OdwRun")
PLAN = SearchAttributeKey.for_keyword("OdwPlan")
PHASE = SearchAttributeKey.for_keyword("OdwPhase")
SEARCH_ATTRIBUTES = (PIPELINE, RUN, PLAN, PHASE)


@dataclass
class Queues:
    """Names of the task queues: for workflows, for planning, and for the work itself."""

    workflows: str = "odw-wf"
    planning: str = "odw-plan"
    work: str = "odw-work"

    @staticmethod
    def named(base: str) -> Queues:
        """Return the three queues of an installation."""
        return Queues(f"{base}-wf", f"{base}-plan", f"{base}-work")


@dataclass
class Counts:
    """Counts of records, tokens and money."""

    read: int = 0
    forked: int = 0
    written: int = 0
    dropped: int = 0
    dead: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    def add(self, other: Counts) -> None:
        """Add `other` to these."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Trouble:
    """The wait of a node, and its start (seconds since 1970); `node` is "" without trouble.

    `waiting`: "retry" or "outage"; "" means that it is over. `note`: the last answer of the service.
    """

    node: str = ""
    waiting: str = ""
    note: str = ""
    since: float = 0.0


@dataclass
class PipelineRequest:
    """The request to start or resume a run of a pipeline.

    Args:
        run_id: id of the run in the state store; "" generates one from the pipeline's name and the start.
        params: run parameters by pipeline, including followers.
        identity: identity hash of the submitter's plan; "" accepts the worker's.
        resume: the run exists already, started durably or locally.
        shards: number of workflows that share the chunks.
        window: concurrent chunks of a shard.
        chunk_splits: splits in a chunk; 0 derives it from the number of splits. Fixed for the life of a run.
        max_failed_chunks: maximum failed chunks; more fail the run.
        heartbeat: seconds without a heartbeat after which a worker is considered dead.
        search_attributes: whether the server has our search attributes.
        priority: 1 (highest) to 5; tasks with a smaller number are dispatched first. Also used for shards,
            activities and followers.
        schedule: the expression in the file, if a schedule starts the run.
    """

    pipeline: str = ""
    run_id: str = ""
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    identity: str = ""
    resume: bool = False
    shards: int = 4
    window: int = 8
    chunk_splits: int = 0
    max_failed_chunks: int = 0
    heartbeat: float = 60.0
    queues: Queues = field(default_factory=Queues)
    search_attributes: bool = False
    priority: int = 3
    schedule: str = ""
    v: int = 1


@dataclass
class CompileRequest:
    """Compile a plan, and store the run. `group_id` is the workflow's id.

    `scheduled`: a schedule started the workflow. `v`: from 2 on, the sender supports that a run waits for
    another one, or is skipped.
    """

    run_id: str = ""
    group_id: str = ""
    pipeline: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    identity: str = ""
    resume: bool = False
    scheduled: bool = False
    v: int = 2


@dataclass
class Compiled:
    """The parts of a plan that a workflow needs. `timeout` is in seconds.

    `waits_for`: another run of the pipeline is in progress, and this one has not begun; try again later.
    `skipped`: the same, and the pipeline skips this run.
    """

    run_id: str = ""
    identity: str = ""
    sources: list[str] = field(default_factory=list)
    timeout: float | None = None
    retries: int = 0
    on_complete: list[str] = field(default_factory=list)
    on_cancel: list[str] = field(default_factory=list)
    waits_for: str = ""
    skipped: str = ""
    on_failure: list[str] = field(default_factory=list)


@dataclass
class ListRequest:
    """List the splits of a source into the store, and divide them; `chunk_splits` as in `PipelineRequest`.

    `v`: from 2 on, the sender supports a listing that is handed back.
    """

    run_id: str = ""
    pipeline: str = ""
    identity: str = ""
    node: str = ""
    chunk_splits: int = 0
    v: int = 2


@dataclass
class Listed:
    """The number of splits of a source and per chunk; 0 from workers that did not divide.

    `stopped`: the worker stopped before the listing was complete, so it has to be repeated.
    """

    splits: int = 0
    chunk_splits: int = 0
    stopped: bool = False


@dataclass
class ChunkRequest:
    """The request to process consecutive splits of a source.

    `outages`: seconds that earlier parts waited for an outage to end, by node.
    """

    run_id: str = ""
    pipeline: str = ""
    identity: str = ""
    node: str = ""
    first: int = 0
    count: int = 0
    outages: dict[str, float] = field(default_factory=dict)
    v: int = 1


@dataclass
class ChunkResult:
    """The result of an attempt at a chunk.

    `counts` covers all attempts so far. `done` is false when the worker is stopping (`stopped`), or time was
    nearly up: the rest of the chunk continues from its position in the ledger. `outages`: seconds of ongoing
    outages over all parts, by node, for the next part. `outage`: the longest one that this part has waited
    for.
    """

    done: bool = True
    stopped: bool = False
    counts: Counts = field(default_factory=Counts)
    outage: float = 0.0
    outages: dict[str, float] = field(default_factory=dict)


@dataclass
class FinalizeRequest:
    """The request to store a run's result.

    `group_id`: the workflow that started it, or "" for any. `kind`: the type of its failure, or "".
    """

    run_id: str = ""
    pipeline: str = ""
    status: str = "completed"
    error: str = ""
    group_id: str = ""
    v: int = 1
    kind: str = ""


@dataclass
class PipelineResult:
    """The result of a run; `counts` are the ledger's. At most `MAX_NAMED` failed chunks are named."""

    run_id: str = ""
    status: str = ""
    error: str = ""
    counts: Counts = field(default_factory=Counts)
    chunks: int = 0
    failed: int = 0
    failed_chunks: list[str] = field(default_factory=list)


@dataclass
class Control:
    """The control state of a run's shards; `window` 0 leaves it unchanged."""

    paused: bool = False
    draining: bool = False
    window: int = 0


@dataclass
class Splits:
    """The number of splits of a source, in total and per chunk."""

    node: str = ""
    total: int = 0
    chunk_splits: int = 1

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.total // max(1, self.chunk_splits))


Parked = dict[str, list[int]]
"""Parked chunks, by the type of their last failure."""


@dataclass
class ShardRequest:
    """The chunks `next_chunk` to `end_chunk` (exclusive), and the progress of earlier parts.

    `to_retry`: chunks begun before and not done; `second_try`: these include parked ones. `reasons`: the last
    message of each type of failure. `progress_at`: time of the last progress of a chunk, in seconds since
    1970; 0 for never.
    """

    run_id: str = ""
    pipeline: str = ""
    identity: str = ""
    splits: Splits = field(default_factory=Splits)
    next_chunk: int = 0
    end_chunk: int = 0
    control: Control = field(default_factory=lambda: Control(window=8))
    counts: Counts = field(default_factory=Counts)
    done_chunks: int = 0
    parked: Parked = field(default_factory=dict)
    second_try: bool = False
    to_retry: list[int] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    progress_at: float = 0.0
    heartbeat: float = 60.0
    queues: Queues = field(default_factory=Queues)
    v: int = 1


@dataclass
class ShardResult:
    """The result of a shard. `drained`: chunks are left because of a drain.

    `reasons`: the last message of each type of failure. `outage`: type and message of the outage that ended
    it; chunks are then left too.
    """

    counts: Counts = field(default_factory=Counts)
    done_chunks: int = 0
    failed: Parked = field(default_factory=dict)
    drained: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    outage: list[str] = field(default_factory=list)


@dataclass
class ShardProgress:
    """The progress of a shard; bounded regardless of the run's size."""

    done_chunks: int = 0
    open_chunks: int = 0
    left_chunks: int = 0
    parked_chunks: int = 0
    control: Control = field(default_factory=Control)
    counts: Counts = field(default_factory=Counts)


@dataclass
class PipelineProgress:
    """The progress of a run. `phase`: planning, listing, running, finalizing, done."""

    run_id: str = ""
    phase: str = ""
    chunks: int = 0
    shards: int = 0
    shards_done: int = 0
    control: Control = field(default_factory=Control)
    shard_ids: list[str] = field(default_factory=list)
    trouble: Trouble = field(default_factory=Trouble)


def chunk_range(splits: Splits, chunk: int) -> tuple[int, int]:
    """Return the position of the first split of a chunk, and its number of splits."""
    first = chunk * splits.chunk_splits
    return first, min(splits.chunk_splits, splits.total - first)
