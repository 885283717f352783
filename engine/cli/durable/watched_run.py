"""A durable run for the live view: counts from the ledger, the rest from its workflow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from time import monotonic

import anyio
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError, CancelledError, FailureError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from engine.cli.exit_codes import ExitCode
from engine.contract.acks import Tally
from engine.contract.clock import SystemClock
from engine.contract.component import Kind
from engine.errors import RunNotFoundError, ServiceError
from engine.execution.failure_types import FailureType
from engine.execution.report import RunReport
from engine.flow.stats import NodeSnapshot, RunSnapshot
from engine.state import DeadLetterFilter, RunRecord, RunStatus, StateStore
from engine.temporal.messages import PipelineProgress, PipelineResult
from engine.temporal.starting import Handle
from engine.temporal.worker_presence import worker_presence
from engine.temporal.workflows import PipelineRun

LOOK_EVERY = 0.5
MAX_TROUBLE = 300
ANSWERS_WITHIN = 3.0
"""Seconds without an answer after which the server is reported as not answering."""
OUTCOME_WITHIN = 60.0
"""Seconds to wait for the result of a run that the server reports as ended."""
ATTENDANCE_EVERY = 2.0
LOOKS_WITHOUT = 2
"""Consecutive polls without a worker before it is reported: between two chunks there is none for a moment."""
LOOKS_UNTIL_LOST = 6
"""Consecutive polls that do not find the workflow: a new server may not know its namespace yet."""

_CODES = {
    FailureType.CONFIG: ExitCode.USAGE,
    FailureType.PLAN_MISMATCH: ExitCode.USAGE,
    FailureType.RUN_EXISTS: ExitCode.USAGE,
    FailureType.RUN_OVERLAP: ExitCode.ENVIRONMENT,
    FailureType.DEAD_LETTER_BUDGET: ExitCode.DEAD_LETTER_BUDGET,
    FailureType.OUTAGE: ExitCode.OUTAGE,
    FailureType.SOURCE_UNAVAILABLE: ExitCode.OUTAGE,
    FailureType.SINK_UNAVAILABLE: ExitCode.OUTAGE,
    FailureType.PROVIDER_THROTTLED: ExitCode.OUTAGE,
    FailureType.STATE_UNAVAILABLE: ExitCode.ENVIRONMENT,
    FailureType.SERVICE_UNAVAILABLE: ExitCode.ENVIRONMENT,
    FailureType.STATE_CORRUPT: ExitCode.ENVIRONMENT,
}
_CODES_OF_STATUS = {
    RunStatus.COMPLETED: ExitCode.COMPLETED,
    RunStatus.SKIPPED: ExitCode.COMPLETED,
    RunStatus.INTERRUPTED: ExitCode.INTERRUPTED,
    RunStatus.OUTAGE: ExitCode.OUTAGE,
}


@dataclass
class WatchedRuns:
    """The session of the live view."""

    entries: Mapping[str, Watched]


@dataclass
class Watched:
    """One watched run; an entry of the live view.

    `code`: exit code of the watching process; `elsewhere`: the run is in another state store.
    """

    client: Client
    handle: Handle
    run_id: str
    report: RunReport | None = None
    code: ExitCode = ExitCode.COMPLETED
    elsewhere: bool = False
    _tally: Tally = field(default_factory=Tally)
    _began: int | None = None
    _record: RunRecord | None = None
    _progress: PipelineProgress = field(default_factory=PipelineProgress)
    _splits: tuple[int, int] = (0, 0)
    _sources: list[str] = field(default_factory=list)
    _described: WorkflowExecutionDescription | None = None
    _silent: bool = False
    _lost: int = 0
    _without_workers: int = 0
    _wait: str = ""
    _asked_at: float = 0.0

    @property
    def name(self) -> str:
        return self._record.pipeline if self._record else self.run_id.rsplit("-", 2)[0]

    @property
    def known(self) -> bool:
        """Whether the state store has the run."""
        return self._record is not None

    @property
    def trouble(self) -> str:
        """Return the reason for missing counts."""
        return self._state()

    def snapshot(self) -> RunSnapshot | None:
        """Return the last known state of the run, or None while the state store does not have it."""
        record = self._record
        if record is None:
            return None
        return RunSnapshot(
            run_id=self.run_id,
            pipeline=record.pipeline,
            elapsed=((record.ended or SystemClock().now()) - record.began).total_seconds(),
            tally=self._tally,
            bytes_in_flight=0,
            bytes_budget=0,
            nodes=[self._as_node()],
            draining=self._progress.control.draining,
            state=self._state(),
        )

    def _state(self) -> str:
        phase, control, (done, total) = self._progress.phase, self._progress.control, self._splits
        if self._silent:
            return "no answer from the Temporal server"
        # a run that is paused need not have a worker
        if self._without_workers >= LOOKS_WITHOUT and not control.paused:
            return "waiting for a worker"
        if self._record is None:
            shown = "waits for another run of the pipeline" if phase == "waiting" else phase
            return "in another state store" if self.elsewhere else shown or "starting"
        splits = f", {done:,} of {total:,} splits done" if total else ""
        state = phase if phase in ("planning", "listing") else "running"
        if control.draining or control.paused:
            state = f"{'draining' if control.draining else 'paused'}{splits}"
        trouble = self._wait[:MAX_TROUBLE]
        if not trouble:
            return state
        return trouble if state == "running" else f"{state}; {trouble}"

    def _as_node(self) -> NodeSnapshot:
        """All sources as one node: records read since watching began."""
        name = ", ".join(self._sources) or self.name
        return NodeSnapshot(name, Kind.SOURCE, "", records_in=self._tally.read - (self._began or 0))

    async def until_ended(self, store: StateStore) -> None:
        """Poll the ledger and the workflow until the run has ended.

        Raises:
            ServiceError: the server has lost the run.
        """
        while not await self.look(store):
            if not self._silent:  # without a worker there is no answer, and the last one counts
                with suppress(RPCError, WorkflowQueryFailedError), anyio.move_on_after(ANSWERS_WITHIN):
                    self._progress = await self.handle.query(PipelineRun.progress)
            await anyio.sleep(LOOK_EVERY)

    async def look(self, store: StateStore) -> bool:
        """Poll once; return whether the run has ended. A server without answer is ignored.

        Raises:
            ServiceError: the server has lost the run, or no longer permits access.
        """
        await self._look_at_ledger(store)
        answered = False
        with anyio.move_on_after(ANSWERS_WITHIN):
            try:
                self._described = await self.handle.describe()
                answered = True
                if self._described.status is not WorkflowExecutionStatus.RUNNING:
                    return True
                await self._look_for_workers(self._described)
            except RPCError as error:
                self._note_lost(error)
        self._silent = not answered
        if answered:
            self._lost = 0
        return False

    def _note_lost(self, error: RPCError) -> None:
        if error.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
            raise ServiceError(
                f"the Temporal server no longer permits access to run {self.run_id!r} "
                f"({error.status.name}): check TEMPORAL_API_KEY and the namespace"
            ) from error
        self._lost = self._lost + 1 if error.status is RPCStatusCode.NOT_FOUND else 0
        if self._lost >= LOOKS_UNTIL_LOST:
            raise self._is_lost() from error

    def _is_lost(self) -> ServiceError:
        remedy = (
            f"resume from there with `submit --resume {self.run_id}`" if self.known else "submit it again"
        )
        return ServiceError(
            f"the Temporal server no longer has workflow {self.handle.id} of run {self.run_id!r}. The "
            f"ledger keeps what was committed: {remedy}"
        )

    async def _look_for_workers(self, described: WorkflowExecutionDescription) -> None:
        if monotonic() - self._asked_at < ATTENDANCE_EVERY:
            return
        self._asked_at = monotonic()
        found = await worker_presence(self.client, described)
        self._without_workers = self._without_workers + 1 if found.served is False else 0
        self._wait = found.trouble

    async def _look_at_ledger(self, store: StateStore, *, whole: bool = False) -> None:
        try:
            self._record = await store.get_run(self.run_id)
        except RunNotFoundError:
            # a worker adds it while planning
            self.elsewhere = self._progress.phase not in ("", "planning", "waiting")
            return
        self.elsewhere = False
        self._tally = await (store.tally if whole else store.counts)(self.run_id)
        self._splits = await store.count_splits(self.run_id)
        self._sources = self._sources or list(await store.divisions(self.run_id))
        if self._began is None:
            self._began = self._tally.read

    async def conclude(self, store: StateStore) -> RunReport:
        """Return the result, from the workflow unless the run was resumed elsewhere since.

        Raises:
            ServiceError: the server has lost the run, or no longer answers.
        """
        status, error, tally = await self._outcome()
        await self._look_at_ledger(store, whole=True)
        snapshot, letters, journal_usd = self.snapshot(), 0, 0.0
        if self._record is None and tally is not None and status is not RunStatus.SKIPPED:
            self._tally, self.elsewhere = tally, True
        if self._record is not None:
            letters = await store.count_dead_letters(DeadLetterFilter(run_id=self.run_id, status="open"))
            journal_usd = await store.journal_cost(self.run_id)
            if self._was_continued_elsewhere(self._record, status):
                status, error = self._record.status, self._record.error
                self.code = _CODES_OF_STATUS.get(status, ExitCode.FAILED)
        self.report = RunReport(
            pipeline=self.name,
            run_id=self.run_id,
            status=status,
            tally=self._tally,
            seconds=snapshot.elapsed if snapshot is not None else self._seconds(),
            nodes=[replace(self._as_node(), records_in=self._tally.read)],
            error=error,
            dead_letters=letters,
            attempt=self._record.attempt if self._record is not None else 1,
            journal_usd=journal_usd,
        )
        return self.report

    def _was_continued_elsewhere(self, record: RunRecord, status: RunStatus) -> bool:
        """Return whether a local process has continued the run, so the ledger has a later end."""
        if record.status is RunStatus.RUNNING or _as_stored(record.status) == _as_stored(status):
            return False
        if record.status is RunStatus.COMPLETED:
            return True
        started = self._described.start_time if self._described else None
        return started is not None and record.ended is not None and record.ended > started

    def _seconds(self) -> float:
        described = self._described
        if described is None or described.close_time is None:
            return 0.0
        return (described.close_time - described.start_time).total_seconds()

    async def _outcome(self) -> tuple[RunStatus, str, Tally | None]:
        """Return the status, the error and the workers' counts, which some failures do not carry."""
        try:
            with anyio.fail_after(OUTCOME_WITHIN):
                result = await self._result()
        except WorkflowFailureError as failure:
            status, error, self.code = _failed(failure)
            return status, error, None
        except TimeoutError:
            raise ServiceError(
                f"run {self.run_id!r} has ended, but the Temporal server no longer answers: run `watch` "
                "again when it is back to see the result"
            ) from None
        status = RunStatus(result.status)
        self.code = _CODES_OF_STATUS.get(status, ExitCode.FAILED)
        return status, result.error, Tally(**asdict(result.counts))

    async def _result(self) -> PipelineResult:
        while True:
            try:
                return await self.handle.result()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    raise self._is_lost() from error
                await anyio.sleep(LOOK_EVERY)


def _as_stored(status: RunStatus) -> RunStatus:
    """Map an outage to a failure, as the store does; only the workflow distinguishes the two."""
    return RunStatus.FAILED if status is RunStatus.OUTAGE else status


def _failed(failure: WorkflowFailureError) -> tuple[RunStatus, str, ExitCode]:
    cause = failure.cause
    if isinstance(cause, CancelledError):
        return RunStatus.INTERRUPTED, "cancelled", ExitCode.INTERRUPTED
    if isinstance(cause, TerminatedError):  # by an operator, who may have given a reason
        reason = f": {cause.message}" if cause.message else ""
        return RunStatus.FAILED, f"its workflow was terminated{reason}", ExitCode.FAILED
    message = cause.message if isinstance(cause, FailureError) else str(cause)
    kind = (cause.type if isinstance(cause, ApplicationError) else "") or ""
    known = FailureType(kind) if kind in list(FailureType) else None
    code = _CODES.get(known, ExitCode.FAILED) if known is not None else ExitCode.FAILED
    status = RunStatus.OUTAGE if code is ExitCode.OUTAGE else RunStatus.FAILED
    return status, f"{kind}: {message}" if kind else message, code
