"""A durable run as the live view wants it: counts from the ledger, the rest from its workflow."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import anyio
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError

from engine.acks import Tally
from engine.cli.durable import client_of, run_of
from engine.cli.failures import ExitCode
from engine.cli.output import Output
from engine.cli.state import store_of
from engine.cli.summary import summary
from engine.clock import SystemClock
from engine.component import Kind
from engine.errors import RunNotFoundError
from engine.failures import FailureType
from engine.report import RunReport
from engine.state import DeadLetterFilter, RunRecord, RunStatus, StateStore
from engine.stats import NodeSnapshot, RunSnapshot, Waiting
from engine.temporal.messages import PipelineProgress, PipelineResult
from engine.temporal.starting import find
from engine.temporal.workflows import PipelineRun

__all__ = ["follow", "watch"]

LOOK_EVERY = 0.5
_CODES = {
    FailureType.CONFIG: ExitCode.USAGE,
    FailureType.PLAN_MISMATCH: ExitCode.USAGE,
    FailureType.DEAD_LETTER_BUDGET: ExitCode.DEAD_LETTER_BUDGET,
    FailureType.OUTAGE: ExitCode.OUTAGE,
    FailureType.SOURCE_UNAVAILABLE: ExitCode.OUTAGE,
    FailureType.SINK_UNAVAILABLE: ExitCode.OUTAGE,
    FailureType.PROVIDER_THROTTLED: ExitCode.OUTAGE,
    FailureType.STATE_UNAVAILABLE: ExitCode.ENVIRONMENT,
    FailureType.SERVICE_UNAVAILABLE: ExitCode.ENVIRONMENT,
    FailureType.STATE_CORRUPT: ExitCode.ENVIRONMENT,
}


async def watch(options: argparse.Namespace) -> int:
    """Show a run until it has ended.

    Raises:
        RunNotFoundError: the store or the server does not know it.
    """
    record = await run_of(options)
    client = await client_of(options)
    return int(await follow(await find(client, record), record.run_id, options))


async def follow(handle: object, run_id: str, options: argparse.Namespace) -> ExitCode:
    """Show a workflow's run until it has ended; its exit code."""
    options.quiet = getattr(options, "quiet", False)
    options.progress = getattr(options, "progress", "auto")
    options.log_format = "none"
    options.file = getattr(options, "file", "pipelines.yaml")
    output = Output(options, {})
    watched = _Watched(handle, run_id)
    async with store_of(options, create=True) as store:
        async with output.progress(_Watching({run_id: watched})):
            await watched.until_ended(store)
        report = await watched.conclude(store)
    output.conclude(summary([report], options, width=output.width, resumable=False))
    return watched.code


@dataclass
class _Watching:
    """What the live view takes for a session."""

    entries: dict[str, _Watched]


@dataclass
class _Watched:
    """One run, looked at from outside; what the live view takes for an entry."""

    handle: object
    run_id: str
    report: RunReport | None = None
    trouble: str = "waits for a worker"
    code: ExitCode = ExitCode.COMPLETED
    _tally: Tally = field(default_factory=Tally)
    _began: int | None = None
    _record: RunRecord | None = None
    _progress: PipelineProgress = field(default_factory=PipelineProgress)
    _splits: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        return self._record.pipeline if self._record else self.run_id.rsplit("-", 2)[0]

    def snapshot(self) -> RunSnapshot | None:
        """The run as it was found last; None before a worker has taken it up."""
        record = self._record
        if record is None:
            return None
        began = datetime.fromisoformat(record.started_at)
        control, now = self._progress.control, SystemClock().now()
        ended = datetime.fromisoformat(record.ended_at) if record.ended_at else now
        return RunSnapshot(
            run_id=self.run_id,
            pipeline=record.pipeline,
            elapsed=(ended - began).total_seconds(),
            tally=self._tally,
            bytes_in_flight=0,
            bytes_budget=0,
            nodes=[self._as_node()],
            draining=control.draining,
        )

    def _as_node(self) -> NodeSnapshot:
        """All its sources as one: what was read since the watching began, and what it waits for."""
        progress, (done, total) = self._progress, self._splits
        note = "paused" if progress.control.paused else ""
        if progress.phase in ("planning", "listing"):
            note = progress.phase
        return NodeSnapshot(
            name=f"{done:,} of {total:,} splits done" if total else "run",
            kind=Kind.SOURCE,
            component="",
            workers=1,
            records_in=self._tally.read - (self._began or 0),
            records_out=0,
            batches=0,
            retries=0,
            dead=0,
            dropped=0,
            busy_seconds=0.0,
            blocked_seconds=0.0,
            utilisation=0.0,
            waiting=Waiting.OUTAGE if note else Waiting.NOTHING,
            note=note,
            aggregate={},
        )

    async def until_ended(self, store: StateStore) -> None:
        """Look at the ledger and the workflow, again and again."""
        while True:
            with suppress(RunNotFoundError):  # before a worker has taken it up
                await self._look(store)
            # nobody answers just now: the run goes on, and so does the looking
            with suppress(RPCError):
                described = await self.handle.describe()  # type: ignore[attr-defined]
                if described.status is not WorkflowExecutionStatus.RUNNING:
                    return
                with anyio.move_on_after(2):
                    self._progress = await self.handle.query(PipelineRun.progress)  # type: ignore[attr-defined]
            await anyio.sleep(LOOK_EVERY)

    async def _look(self, store: StateStore, *, whole: bool = False) -> None:
        self._record = await store.get_run(self.run_id)
        self._tally = await (store.tally if whole else store.counts)(self.run_id)
        self._splits = await store.count_splits(self.run_id)
        if self._began is None:
            self._began = self._tally.read

    async def conclude(self, store: StateStore) -> RunReport:
        """What came of it."""
        error, status = "", RunStatus.COMPLETED
        try:
            result: PipelineResult = await self.handle.result()  # type: ignore[attr-defined]
            status, error = RunStatus(result.status), result.error
            self.code = ExitCode.COMPLETED if status is RunStatus.COMPLETED else ExitCode.INTERRUPTED
        except WorkflowFailureError as failure:
            status, error, self.code = _failed(failure)
        letters = 0
        with suppress(RunNotFoundError):
            await self._look(store, whole=True)
            letters = await store.count_dead_letters(DeadLetterFilter(run_id=self.run_id, status="open"))
        snapshot = self.snapshot()
        self.report = RunReport(
            pipeline=self.name,
            run_id=self.run_id,
            status=status,
            tally=self._tally,
            seconds=snapshot.elapsed if snapshot is not None else 0.0,
            nodes=[replace(self._as_node(), records_in=self._tally.read)],
            error=error,
            dead_letters=letters,
            attempt=self._record.attempt if self._record is not None else 1,
        )
        return self.report


def _failed(failure: WorkflowFailureError) -> tuple[RunStatus, str, ExitCode]:
    from temporalio.exceptions import ApplicationError, CancelledError

    cause = failure.cause
    if isinstance(cause, CancelledError):
        return RunStatus.INTERRUPTED, "cancelled", ExitCode.INTERRUPTED
    kind = cause.type if isinstance(cause, ApplicationError) else ""
    known = FailureType(kind) if kind in list(FailureType) else None
    text = f"{kind}: {cause}" if kind else str(cause)
    code = _CODES.get(known, ExitCode.FAILED) if known is not None else ExitCode.FAILED
    return (RunStatus.OUTAGE if code is ExitCode.OUTAGE else RunStatus.FAILED), text, code
