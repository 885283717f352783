"""Runs over HTTP, and pipelines and runs as values for the operator's page, with protocols of their hosts.

The service knows neither plans nor state stores: the host of the runs implements `RunHost` and `Operations`,
and returns values without secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.service.models import Origin

RunState = Literal["RUNNING", "COMPLETED", "FAILED", "CANCELED", "TERMINATED"]


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A started run. `workflow_id` names the pipeline, and its parameters, if any were given."""

    pipeline: str
    workflow_id: str
    run_id: str
    params: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class HostedRun:
    """A run, in progress or ended. Times have a time zone."""

    pipeline: str
    workflow_id: str
    run_id: str
    state: RunState
    started_at: datetime
    ended_at: datetime | None
    error: str = ""


class RunStartError(Exception):
    """A run could not be started. `is_callers`: the request is at fault, not the service."""

    def __init__(self, message: str, *, is_callers: bool = False) -> None:
        super().__init__(message)
        self.is_callers = is_callers


class RunHost(Protocol):
    """Has pipelines, and runs them."""

    def parameters(self, name: str) -> Collection[str] | None:
        """Return the names of a pipeline's parameters; None when no pipeline has this name or alias."""

    async def start(self, name: str, params: Mapping[str, str]) -> StartedRun:
        """Start a run and return once it is in the state store. Raises RunStartError."""

    async def list_runs(self, limit: int, states: Collection[RunState] = ()) -> list[HostedRun]:
        """Return the latest runs, newest first, in one of these `states`."""

    async def terminate(self, name: str) -> HostedRun | None:
        """End the latest unfinished run of a workflow or pipeline; return None when there is none."""


class OperationsError(Exception):
    """A request cannot be fulfilled; the message has the reason for the user."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of a pipeline, with its counts so far in a run.

    `share` is the busy share of its workers' time (0 to 1), None when it is unknown. `waits_for` is what it
    waits for, or "". `state` is idle, working, waiting, done or failed. `pays`: its answers cost money.
    """

    name: str
    kind: str
    component: str
    inputs: Sequence[str]
    state: str = "idle"
    records_in: int | None = None
    records_out: int | None = None
    dead: int = 0
    dropped: int = 0
    retries: int = 0
    share: float | None = None
    waits_for: str = ""
    pays: bool = False


@dataclass(frozen=True, slots=True)
class ParameterView:
    """A parameter of a pipeline; `default` as text, None when it has none."""

    name: str
    type: str
    default: str | None
    description: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run in a list. `state` is running, completed, failed, outage or interrupted."""

    run_id: str
    pipeline: str
    state: str
    started_at: datetime
    ended_at: datetime | None
    read: int
    written: int
    dead: int
    dropped: int
    error: str = ""
    attempt: int = 1
    is_here: bool = False
    waits_for: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A pipeline of the file, with its last run."""

    name: str
    description: str
    nodes: Sequence[NodeView]
    parameters: Sequence[ParameterView]
    schedule: str = ""
    last: RunView | None = None


@dataclass(frozen=True, slots=True)
class SplitView:
    """A split of a source. `state` is done, begun or waiting."""

    node: str
    key: str
    state: str


@dataclass(frozen=True, slots=True)
class StageView:
    """A line of the log of stages."""

    at: datetime
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class RunDetail:
    """All data of one run.

    `rates` are (moment, written and dead per second), oldest first. `paid_usd` is what all attempts have
    paid, as in the run's report, also for answers that no counted record uses.
    """

    run: RunView
    nodes: Sequence[NodeView]
    params: Mapping[str, str]
    bottleneck: str = ""
    splits: Sequence[SplitView] = ()
    splits_done: int = 0
    splits_all: int = 0
    stages: Sequence[StageView] = ()
    rates: Sequence[tuple[datetime, float, float]] = ()
    bytes_in_flight: int = 0
    bytes_budget: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    paid_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class LetterWhere:
    """Filter of a pipeline's dead letters; "" means any. `before` is the id after which the page begins."""

    pipeline: str = ""
    cause: str = ""
    status: str = "open"
    run_id: str = ""
    key: str = ""
    before: str = ""
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterView(DeadLetter):
    """A dead letter of a pipeline with its id. `record` is JSON, None when only a reference was stored.

    `model` is the ingest model that its node sends to, "" for other sinks.
    """

    id: str
    record: str | None
    model: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A pipeline's schedule. `next_at` is None while it is paused or without a further time."""

    pipeline: str
    schedule: str
    time_zone: str
    overlap: str
    next_at: datetime | None
    last_at: datetime | None = None
    last_run: str = ""
    note: str = ""


class DeadRecord(NamedTuple):
    """The record of a dead letter; `id` is the record's own, used to find it if the origin has no key."""

    origin: Origin
    id: str = ""


class Operations(RunHost, Protocol):
    """The data and actions of the page beyond the service itself. Methods raise OperationsError."""

    def pipelines(self) -> Sequence[PipelineView]:
        """Return the pipelines of the file, in its order, without `last`."""

    async def recent(
        self, limit: int, *, pipeline: str = "", state: str = "", before: str = ""
    ) -> list[RunView]:
        """Return runs, newest first, after the run `before`."""

    async def detail(self, run_id: str) -> RunDetail | None:
        """Return one run; None if the id is unknown."""

    async def end(self, run_id: str, *, at_once: bool) -> bool:
        """Drain or cancel a run of this process; return False if it has ended or runs elsewhere."""

    async def letters(self, where: LetterWhere) -> list[LetterView]:
        """Return dead letters of pipelines, newest first, without their records."""

    async def letter(self, letter_id: str) -> LetterView | None:
        """Return one dead letter with its record."""

    async def causes(self, status: str = "open") -> list[tuple[str, str, int]]:
        """Return (pipeline, error type, number), most frequent first."""

    async def replay(self, letter_id: str, record: str | None, *, force: bool) -> str:
        """Send a dead letter's record, changed or not, again from the node where it failed.

        Returns the id of the run. Raises OperationsError when it could not be delivered.
        """

    async def discard(self, ids: Sequence[str], reason: str) -> int:
        """Discard dead letters; return how many were open."""

    async def close(self, records: Sequence[DeadRecord], reason: str = "") -> None:
        """Close the open dead letters of these records as recovered, or with a reason as discarded."""

    async def calls(self, record: str, run_id: str) -> list[JournalEntry]:
        """Return the paid model calls of a record, by its key or the name of its object, oldest first.

        Those that this run paid; if it paid none, those of the last run that did, whose answers the journal
        reuses.
        Texts are redacted as the node declares, and long ones are cut.
        """

    async def schedules(self) -> list[ScheduleView]:
        """Return the schedules of the file."""
