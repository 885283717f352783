"""Activities: compile, list, run chunks, and finalize. Each is idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.config.model import Notify
from engine.contract.acks import Tally
from engine.contract.chunk import Chunk
from engine.contract.clock import timestamp
from engine.contract.types import JsonValue
from engine.errors import (
    ConfigError,
    OutageError,
    RunError,
    RunExistsError,
    RunMismatchError,
    RunNotFoundError,
    RunOverlapError,
    StateError,
)
from engine.execution.engine import Engine
from engine.execution.events import Observer
from engine.execution.failure_types import report_failure, typed_failure
from engine.execution.lease import acquire
from engine.execution.notifying import stored_result, tell
from engine.execution.overlap import Entry
from engine.execution.report import RunReport, stored_report
from engine.execution.run import Run
from engine.flow.limits import unmet
from engine.plan.model import Plan
from engine.plan.portability import check_divisible
from engine.state.records import Notification, RunRecord, RunStatus
from engine.temporal.boundary import application_error, failing_by_type
from engine.temporal.division import cut
from engine.temporal.heartbeat import OutageTimer
from engine.temporal.messages import (
    AWAY,
    ChunkRequest,
    ChunkResult,
    Compiled,
    CompileRequest,
    Counts,
    FinalizeRequest,
    Listed,
    ListRequest,
    PipelineResult,
    Trouble,
)
from engine.temporal.starting import working_on
from engine.temporal.supervision import Patience, listed, seen_through
from engine.temporal.trouble import TroubleReports, TroubleWatch, activity_workflow

Plans = Callable[[str, Mapping[str, JsonValue]], Plan]
"""Compiles a pipeline of the worker's file with these run parameters. Raises `ConfigError`."""


TROUBLE_EVERY = 2.0
"""Seconds between two checks whether a node waits."""


class Activities:
    """The activities of a worker.

    Args:
        engine: an open engine, with a store that all workers share.
        plans: compiles pipelines from the worker's own copy of the file.
        patience: time limits.
    """

    def __init__(self, engine: Engine, plans: Plans, *, patience: Patience = Patience()) -> None:  # noqa: B008
        self._engine = engine
        self._plans = plans
        self._patience = patience
        self._compiled: dict[str, Plan] = {}
        self._reports = TroubleReports()

    @property
    def observer(self) -> Observer:
        """The observer of the worker's runs."""
        return self._engine.observer

    @property
    def all(self) -> list[Callable[..., Any]]:
        """All activities."""
        return [*self.planning, self.run_chunk]

    @property
    def planning(self) -> list[Callable[..., Any]]:
        """Activities that are quick or run once per run."""
        return [self.compile_plan, self.list_chunks, self.finalize_run]

    @activity.defn
    async def compile_plan(self, request: CompileRequest) -> Compiled:
        """Compile the pipeline and store its run, or take over a resumed run."""
        with failing_by_type():
            plan = self._plans(request.pipeline, request.params)
            record = await self._known(request.run_id)
            if record is not None and request.resume:
                plan = self._plans(request.pipeline, {**record.params, **request.params})
            self._check(plan, request.identity, record)
            check_divisible(plan)
            if record is None and request.resume:
                raise RunNotFoundError(f"no run {request.run_id!r} in the workers' state store")
            entry = self._entry(plan, request, record)
            try:
                record = await self._enter(entry, record, request)
            except RunOverlapError as error:
                if entry.policy not in ("wait", "skip") or request.v < 2:
                    raise
                if entry.policy == "wait":
                    return Compiled(request.run_id, plan.identity, waits_for=str(error))
                return Compiled(request.run_id, plan.identity, skipped=str(error))
        settings = plan.settings
        return Compiled(
            record.run_id,
            plan.identity,
            [node.name for node in plan.sources],
            settings.timeout,
            settings.retries,
            list(settings.on_complete),
            list(settings.on_cancel),
            on_failure=list(settings.on_failure),
        )

    @activity.defn
    async def list_chunks(self, request: ListRequest) -> Listed:
        """List the splits of a source into the store and divide them.

        A complete listing and a division are kept; an unfinished listing starts again. A stopping worker
        hands back a listing that it cannot finish within its grace period, which uses up no attempt.
        """
        try:
            return await self._listed(request)
        except asyncio.CancelledError:
            if not activity.is_worker_shutdown():
                raise
        if request.v < 2:  # it would count as the listing of an empty source
            raise ApplicationError("the worker was told to stop", type="WorkerShutdown")
        return Listed(stopped=True)

    async def _listed(self, request: ListRequest) -> Listed:
        with failing_by_type():
            plan, record = await self._plan(request.run_id, request.pipeline, request.identity)
            # a chunk without splits, used only for its lease
            listing = Chunk(request.node, 0, 0)
            async with self._engine.start(plan, resume=record, chunk=listing) as run:
                try:
                    splits = await listed(run, request.node, self._patience, self._trouble(run))
                # the outage was waited for: the run has failed and can be resumed
                except OutageError as error:
                    raise application_error(typed_failure(error, plan), final=True) from None
            asked = cut(request.node, splits, request.chunk_splits).chunk_splits
            store = self._engine.store
            async with acquire(store, self._engine.clock, request.run_id, listing.name) as lease:
                settled = await store.divide(request.run_id, request.node, asked, epoch=lease.epoch)
        return Listed(splits, settled)

    @activity.defn
    async def run_chunk(self, request: ChunkRequest) -> ChunkResult:
        """Process a chunk until it is done, the worker stops, or time is nearly up.

        An outage is waited for once; the shard decides on another attempt after that.
        """
        with failing_by_type():
            plan, record = await self._plan(request.run_id, request.pipeline, request.identity)
            chunk = Chunk(request.node, request.first, request.count)
            timer = OutageTimer(request.outages, plan.settings.outage_limit)
            async with self._engine.start(plan, resume=record, chunk=chunk) as run:
                report = await seen_through(run, self._patience, timer, self._trouble(run))
                waited, outages = timer.waited, timer.outages
        failure = report_failure(report, plan)
        if failure is not None:
            limit = plan.settings.outage_limit
            waited = max(waited, limit) if failure.outwaited else 0.0
            raise application_error(failure, final=failure.outwaited, waited=waited)
        return ChunkResult(
            report.status is RunStatus.COMPLETED,
            activity.is_worker_shutdown(),
            _counts(report.tally),
            waited,
            outages,
        )

    @activity.defn
    async def finalize_run(self, request: FinalizeRequest) -> PipelineResult:
        """Store the result of the run; a completed run has no unfinished split."""
        store = self._engine.store
        with failing_by_type():
            status, error = RunStatus(request.status), request.error
            record = await self._known(request.run_id)
            if record is None or not _is_owner(record, request.group_id):
                # it failed before it was in the store, or because the run belongs to another workflow
                return PipelineResult(request.run_id, str(status), error)
            if record.status is RunStatus.COMPLETED:
                # it was continued elsewhere and has completed: this workflow's view is outdated
                tally = await store.tally(request.run_id)
                if activity.info().attempt > 1 and status is RunStatus.COMPLETED:
                    # the previous attempt may have ended between the two
                    report = await self._report(record, status, error, tally)
                    await self._tell(self._notify(record, status), report)
                return PipelineResult(request.run_id, str(record.status), "", _counts(tally))
            done, total = await store.count_splits(request.run_id)
            if status is RunStatus.COMPLETED and done < total:
                status, error = RunStatus.FAILED, f"{total - done} of {total} splits are not done"
            if status is RunStatus.COMPLETED:
                failure = await self._unmet(request)
                status, error = (RunStatus.FAILED, str(failure)) if failure is not None else (status, error)
            ended = timestamp(self._engine.clock.now())
            tally = await store.tally(request.run_id)
            is_outage = status is RunStatus.FAILED and request.kind in AWAY
            report = await self._report(record, RunStatus.OUTAGE if is_outage else status, error, tally)
            notify = self._notify(record, report.status)
            async with acquire(store, self._engine.clock, request.run_id, "finalize") as lease:
                await store.update_run(
                    request.run_id,
                    status=status,
                    ended_at=ended,
                    error=error,
                    epoch=lease.epoch,
                    notification=stored_result(report, ended) if notify is not None else None,
                )
            await self._tell(notify, report)
        return PipelineResult(request.run_id, str(status), error, _counts(tally))

    def _notify(self, record: RunRecord, status: RunStatus) -> Notify | None:
        """Return where this worker's file wants the result posted, if it does."""
        try:
            notify = self._plans(record.pipeline, record.params).settings.notify
        except ConfigError:
            return None  # the file was changed and is now invalid, which is reported elsewhere
        return notify if notify is not None and status in notify.when else None

    async def plans_of(self, results: Sequence[Notification]) -> dict[str, Plan]:
        """Return the plans of the pipelines of these results, as far as the file has them."""
        plans: dict[str, Plan] = {}
        for one in results:
            with suppress(ConfigError, RunNotFoundError):
                if one.pipeline not in plans:
                    params = (await self._engine.store.get_run(one.run_id)).params
                    plans[one.pipeline] = await anyio.to_thread.run_sync(self._plans, one.pipeline, params)
        return plans

    async def _tell(self, notify: Notify | None, report: RunReport) -> None:
        """Post a result; until it is accepted, it stays in the store. Failures do not affect the run."""
        if notify is not None and await tell(notify, report, self.observer):
            with suppress(StateError):
                await self._engine.store.delete_notification(report.run_id, report.attempt)

    async def _report(self, record: RunRecord, status: RunStatus, error: str, tally: Tally) -> RunReport:
        seconds = (self._engine.clock.now() - record.began).total_seconds()
        return await stored_report(self._engine.store, record, status, error, tally, seconds)

    def _trouble(self, run: Run) -> TroubleWatch:
        send = None
        with suppress(RuntimeError):  # outside of a worker there is neither client nor workflow
            client, workflow_id = activity.client(), activity_workflow()

            async def send(trouble: Trouble) -> None:
                await client.get_workflow_handle(workflow_id).signal("trouble", trouble)

        every = min(TROUBLE_EVERY, self._patience.beat_every)
        return TroubleWatch(run.snapshot, self.observer, self._reports, send, every=every)

    async def _unmet(self, request: FinalizeRequest) -> RunError | None:
        """Return why a run whose splits are all done has failed; None if it has not."""
        store = self._engine.store
        plan, record = await self._plan(request.run_id, request.pipeline, "")
        matched = []
        for source in plan.sources:
            splits, _ = await store.splits(record.run_id, source.name, limit=1)
            matched += [source.name] if splits else []
        return unmet(plan, await store.tally(record.run_id), matched)

    async def _plan(self, run_id: str, pipeline: str, identity: str) -> tuple[Plan, RunRecord]:
        record = await self._engine.store.get_run(run_id)
        plan = self._compiled.get(run_id)
        if plan is None:
            plan = self._compiled[run_id] = self._plans(pipeline, record.params)
            while len(self._compiled) > 100:
                del self._compiled[next(iter(self._compiled))]
        self._check(plan, identity, record)
        return plan, record

    def _check(self, plan: Plan, identity: str, record: RunRecord | None) -> None:
        for known, whose in ((identity, "submitted"), (record.identity if record else "", "begun")):
            if known and known != plan.identity:
                raise RunMismatchError(
                    f"the run was {whose} with plan {known[:12]}, but this worker's file compiles to "
                    f"{plan.identity[:12]}: workers and submitters need the same file, environment and "
                    "components"
                )

    async def _known(self, run_id: str) -> RunRecord | None:
        try:
            return await self._engine.store.get_run(run_id)
        except RunNotFoundError:
            return None

    def _entry(self, plan: Plan, request: CompileRequest, record: RunRecord | None) -> Entry:
        if request.scheduled and not plan.settings.if_running:
            # concurrent runs are unwanted if a schedule starts them
            plan = replace(plan, settings=replace(plan.settings, if_running="refuse"))

        async def begin() -> RunRecord:
            return await self._begin(plan, request)

        return Entry(self._engine.store, self._engine.clock, plan, begin, record, under_way=working_on)

    async def _enter(self, entry: Entry, record: RunRecord | None, request: CompileRequest) -> RunRecord:
        """Begin a run, or take one over, unless another run of its pipeline is in the way.

        Raises:
            RunOverlapError: another run is in the way; this one has stored nothing.
        """
        if record is not None and not request.resume:  # another attempt of this activity has begun it
            _check_owner(record, request.group_id)
        elif record is not None:
            if entry.policy != "wait":
                await entry.give_way()
            elif others := await entry.others():
                raise entry.refused(others[0])
            await self._take_over(record)
            return record
        new = record or await entry.begin()
        if entry.policy == "allow":
            return new
        async with acquire(entry.store, entry.clock, new.run_id) as lease:  # local runs look for a lease
            try:
                await entry.confirm(new)
            except RunOverlapError:
                await entry.store.delete_run(new.run_id, epoch=lease.epoch)
                raise
        return new

    async def _begin(self, plan: Plan, request: CompileRequest) -> RunRecord:
        """Begin a new run. An existing one was begun by an earlier attempt of the same workflow."""
        try:
            return await self._engine.begin(plan, run_id=request.run_id, group_id=request.group_id)
        except RunExistsError:
            record = await self._engine.store.get_run(request.run_id)
            _check_owner(record, request.group_id)
            return record

    async def _take_over(self, record: RunRecord) -> None:
        """Acquire the whole run briefly, which supersedes every process that still works on a chunk of it."""
        store, clock = self._engine.store, self._engine.clock
        async with acquire(store, clock, record.run_id) as lease:
            await store.update_run(
                record.run_id, status=RunStatus.RUNNING, attempt=record.attempt + 1, epoch=lease.epoch
            )


def _is_owner(record: RunRecord, workflow_id: str) -> bool:
    return not workflow_id or record.group_id == workflow_id


def _check_owner(record: RunRecord, workflow_id: str) -> None:
    if not _is_owner(record, workflow_id):
        raise RunExistsError(
            f"run {record.run_id!r} already exists, started by {record.group_id or 'another process'}: "
            "start this one with another id, or resume that one"
        )


def _counts(tally: Tally) -> Counts:
    return Counts(**{name: getattr(tally, name) for name in Counts.__dataclass_fields__})
