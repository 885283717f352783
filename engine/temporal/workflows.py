"""Workflows: divide a run into shards, control them, and conclude the run.

`shards` decides which chunks run, how many concurrently, and what is retried.

Temporal's sandbox loads only this module, `shards`, `division`, `details` and `outcomes`; none of them
imports anything that does I/O. `messages`, which has only data, is passed through, so that a starting
workflow does not recreate its dataclasses.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from engine.temporal.messages import (
        MAX_NAMED,
        MAX_SHARDS,
        MAX_WINDOW,
        PHASE,
        PIPELINE,
        PLAN,
        RUN,
        Compiled,
        CompileRequest,
        Control,
        FinalizeRequest,
        Listed,
        ListRequest,
        PipelineProgress,
        PipelineRequest,
        PipelineResult,
        ShardRequest,
        ShardResult,
        Splits,
        Trouble,
    )

from engine.temporal.details import of_run
from engine.temporal.division import cut, divide, failures_of, names_of_failed
from engine.temporal.outcomes import has_failed, in_spite_of_cancellation, innermost, is_cancelled, is_over
from engine.temporal.shards import ShardRun

MAX_ERROR = 1000
MAX_SUMMARY = 200
"""Maximum characters; the server limits a summary to 400 bytes."""

MAX_TROUBLES = 10
"""Maximum nodes named on Temporal's page."""

STORE_TIMEOUT = timedelta(minutes=5)
"""Time limits for activities that run a few statements in the state store, without heartbeats."""

PLANNING = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=20
)

ENDING = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
"""The result of a run is stored whenever the store is available again."""

Shard = workflow.ChildWorkflowHandle[Any, ShardResult]


@workflow.defn
class PipelineRun:
    """One run of a pipeline: compile, list, distribute chunks to shards, and store the result."""

    @workflow.init
    def __init__(self, request: PipelineRequest) -> None:
        self._request = replace(request, run_id=request.run_id or _run_id(request.pipeline))
        self._run_id = self._request.run_id
        self._on_failure: list[str] = []
        self._control = Control(window=request.window)
        self._phase = ""
        self._chunks = 0
        self._shards: dict[str, Shard] = {}
        self._parts: list[ShardRequest] = []
        self._stopping = False
        self._waits_for = ""
        self._ended = ("", "")
        self._troubles: dict[str, tuple[Trouble, datetime]] = {}

    @workflow.run
    async def run(self, request: PipelineRequest) -> PipelineResult:
        self._enter("planning")
        compiled = Compiled()
        try:
            compiled = await self._compiled()
            if compiled.skipped:
                self._enter("done")
                return PipelineResult(self._run_id, "skipped", compiled.skipped)
            # after a reset the id computed here would differ, but the run is still the same
            self._run_id = compiled.run_id or self._run_id
            self._on_failure = compiled.on_failure
            self._request = replace(self._request, run_id=self._run_id)
            _raise_if_cancelled()
            splits = await self._list(compiled)
            results = await self._attempts(compiled, splits)
        except asyncio.CancelledError:
            ending = self._cancelled(compiled)
        except FailureError as error:
            cause = innermost(error)
            ending = self._cancelled(compiled) if is_cancelled(error) else self._fail(cause)
        else:
            ending = self._conclude(compiled, results)
        # store the result in any case: it is too late to cancel now
        task = asyncio.create_task(ending)
        await in_spite_of_cancellation(task.done)
        await in_spite_of_cancellation(workflow.all_handlers_finished)
        return task.result()

    @workflow.update
    async def pause(self) -> Control:
        """Start no further chunks; those in progress continue."""
        return await self._steer(Control(True, self._control.draining, self._control.window))

    @workflow.update
    async def resume(self) -> Control:
        """Start chunks again."""
        return await self._steer(Control(False, self._control.draining, self._control.window))

    @workflow.update
    async def set_window(self, window: int) -> Control:
        """Set the concurrent chunks per shard."""
        return await self._steer(Control(self._control.paused, self._control.draining, window))

    @set_window.validator
    def _check_window(self, window: int) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"the window must be from 1 to {MAX_WINDOW} chunks, got {window}")

    @workflow.update
    async def drain(self) -> Control:
        """Start no further chunks, and end the run as interrupted when those in progress are done."""
        return await self._steer(Control(self._control.paused, True, self._control.window))

    @workflow.signal
    def trouble(self, trouble: Trouble) -> None:
        """Record that a node waits, or (`waiting` is "") has recovered."""
        if trouble.waiting:
            self._troubles[trouble.node] = (trouble, workflow.now())
        else:
            self._troubles.pop(trouble.node, None)
        while len(self._troubles) > MAX_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        self._show()

    @workflow.query
    def progress(self) -> PipelineProgress:
        """Return the progress; counts are in the ledger."""
        return PipelineProgress(
            self._run_id,
            self._phase,
            self._chunks,
            len(self._shards),
            sum(shard.done() for shard in self._shards.values()),
            self._control,
            list(self._shards),
            next((trouble for trouble, _ in self._troubles.values()), Trouble()),
        )

    async def _steer(self, control: Control) -> Control:
        self._control = control
        self._show()
        for shard in list(self._shards.values()):
            if not shard.done():
                await self._tell(shard)
        return control

    async def _tell(self, shard: Shard) -> None:
        """Send the current control state, which may be newer than at the time of the request."""
        try:
            await shard.signal(ShardRun.control, self._control)
        except FailureError:
            # an ended shard has nothing left to start; its end is reported shortly
            with suppress(TimeoutError):
                await workflow.wait_condition(shard.done, timeout=10)
            if not shard.done():
                raise

    async def _compiled(self) -> Compiled:
        """Return the plan, after waiting for other runs of the pipeline if necessary."""
        compiled, attempt = await self._compile(), 0
        while compiled.waits_for:
            self._waits_for = compiled.waits_for
            self._enter("waiting")
            await workflow.sleep(min(5 * 2**attempt, 60))
            attempt = min(attempt + 1, 4)
            _raise_if_cancelled()
            compiled = await self._compile()
        self._waits_for = ""
        return compiled

    async def _compile(self) -> Compiled:
        request = self._request
        compiled: Compiled = await workflow.execute_activity(
            "compile_plan",
            CompileRequest(
                self._run_id,
                workflow.info().workflow_id,
                request.pipeline,
                request.params.get(request.pipeline, {}),
                request.identity,
                request.resume,
                bool(request.schedule),
            ),
            result_type=Compiled,
            summary=f"compile {request.pipeline} and store its run",
            task_queue=request.queues.planning,
            start_to_close_timeout=STORE_TIMEOUT,
            retry_policy=PLANNING,
            # wait for an activity that has begun, so that its run is not left as running
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        if request.search_attributes:
            workflow.upsert_search_attributes(
                [
                    PIPELINE.value_set(request.pipeline),
                    RUN.value_set(self._run_id),
                    PLAN.value_set(compiled.identity[:16]),
                ]
            )
        return compiled

    async def _list(self, compiled: Compiled) -> list[Splits]:
        self._enter("listing")
        splits = []
        for node in compiled.sources:
            listed = await self._listed(compiled, node)
            while listed.stopped:
                listed = await self._listed(compiled, node)
            splits.append(cut(node, listed.splits, listed.chunk_splits or self._request.chunk_splits))
        self._chunks = sum(one.chunks for one in splits)
        return splits

    async def _listed(self, compiled: Compiled, node: str) -> Listed:
        request = self._request
        listed: Listed = await workflow.execute_activity(
            "list_chunks",
            ListRequest(self._run_id, request.pipeline, compiled.identity, node, request.chunk_splits),
            result_type=Listed,
            summary=f"list {node}"[:MAX_SUMMARY],
            task_queue=request.queues.planning,
            start_to_close_timeout=timedelta(hours=6),
            heartbeat_timeout=timedelta(seconds=request.heartbeat),
            retry_policy=PLANNING,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        _raise_if_cancelled()
        return listed

    async def _attempts(self, compiled: Compiled, splits: list[Splits]) -> list[ShardResult]:
        """Process the chunks of the run, and repeat that up to the pipeline's `retries`."""
        self._enter("running")
        for attempt in range(compiled.retries + 1):
            last = attempt == compiled.retries
            try:
                results = await self._within(compiled.timeout, compiled, splits)
            except (ApplicationError, ChildWorkflowError) as error:
                cause = innermost(error)
                final = isinstance(cause, ApplicationError) and cause.non_retryable
                if last or final or is_cancelled(error):
                    raise
            else:
                again = any(result.failed or result.outage for result in results)
                if last or self._control.draining or not again:
                    return results
            await workflow.sleep(min(2**attempt, 60))
        raise AssertionError("the last attempt returns or raises")

    async def _within(
        self, seconds: float | None, compiled: Compiled, splits: list[Splits]
    ) -> list[ShardResult]:
        limit = timedelta(seconds=seconds) if seconds is not None else None
        self._stopping = False
        work = asyncio.create_task(self._all_shards(compiled, splits))
        try:
            await workflow.wait_condition(work.done, timeout=limit)
        except TimeoutError:
            await self._stop(work)
            late = f"{self._request.pipeline!r} ran longer than {seconds:g} s"
            raise ApplicationError(late, type="Timeout") from None
        except asyncio.CancelledError:
            await self._stop(work)
            raise
        return work.result()

    async def _stop(self, work: asyncio.Task[list[ShardResult]]) -> None:
        """Stop the shards after they have delivered what they have read. The ledger has their results."""
        self._stopping = True
        await in_spite_of_cancellation(lambda: is_over(work))

    async def _all_shards(self, compiled: Compiled, splits: list[Splits]) -> list[ShardResult]:
        self._shards, self._parts = {}, divide(self._request, compiled.identity, splits, self._control)
        if len(self._parts) > MAX_SHARDS:
            raise ApplicationError(
                f"{len(splits):,} sources with {self._request.shards} shards each make {len(self._parts):,}"
                f" shards, {MAX_SHARDS:,} are the most of a run: resume it with fewer (--shards)",
                type="ConfigError",
                non_retryable=True,
            )
        starts = [asyncio.create_task(self._start(*numbered)) for numbered in enumerate(self._parts)]
        await workflow.wait_condition(lambda: all(map(is_over, starts)))
        shards = list(self._shards.values())
        tasks: list[asyncio.Task[Any]] = [*starts, *shards]
        await workflow.wait_condition(
            lambda: self._stopping or any(map(has_failed, tasks)) or all(shard.done() for shard in shards)
        )
        failed = [task for task in tasks if has_failed(task)]
        if not failed and all(shard.done() for shard in shards):
            return [start.result().result() for start in starts]
        # the other shards deliver what they have read, and end
        for shard in shards:
            shard.cancel()
        await workflow.wait_condition(lambda: all(map(is_over, shards)))
        for task in failed:
            task.result()
        raise asyncio.CancelledError

    async def _start(self, number: int, request: ShardRequest) -> Shard:
        name = f"{workflow.info().workflow_id}/s{number}"
        shard: Shard = await workflow.start_child_workflow(
            ShardRun.run,
            request,
            id=name,
            static_summary=_range(request),
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        self._shards[name] = shard
        if self._control != request.control:  # the control state changed while it started
            await self._tell(shard)
        return shard

    async def _conclude(self, compiled: Compiled, results: list[ShardResult]) -> PipelineResult:
        outage = next((result.outage for result in results if result.outage), None)
        if outage is not None:
            kind, text = outage
            await self._fail(ApplicationError(text, type=kind))
        failed = names_of_failed(self._parts, results)
        why = failures_of(results)
        if len(failed) > self._request.max_failed_chunks:
            kinds = sorted({kind for result in results for kind in result.failed})
            await self._fail(ApplicationError(why, type=kinds[-1]))
        drained = any(result.drained for result in results)
        status = "interrupted" if drained or failed else "completed"
        result = await self._finalize(status, why)
        result.chunks, result.failed, result.failed_chunks = self._chunks, len(failed), failed[:MAX_NAMED]
        if status == "completed" and result.status != status:
            raise ApplicationError(result.error, type="InternalError", non_retryable=True)
        if status == "completed":
            await self._follow(compiled.on_complete)
        elif drained:
            await self._follow(compiled.on_cancel)
        return result

    async def _cancelled(self, compiled: Compiled) -> PipelineResult:
        await self._finalize("interrupted", "cancelled")
        await self._follow(compiled.on_cancel)
        raise CancelledError("the run was cancelled; it can be resumed")

    async def _fail(self, cause: BaseException) -> PipelineResult:
        """Store the failure and end as failed with it. Never returns."""
        message = cause.message if isinstance(cause, FailureError) else str(cause)
        kind = cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
        kind = kind or "InternalError"
        with suppress(ActivityError):  # the first failure matters
            await self._finalize("failed", message, kind)
        await self._follow(self._on_failure)
        raise ApplicationError(message, type=kind, non_retryable=True)

    async def _finalize(self, status: str, error: str, kind: str = "") -> PipelineResult:
        self._ended = status, error
        self._enter("finalizing")
        result: PipelineResult = await workflow.execute_activity(
            "finalize_run",
            FinalizeRequest(
                self._run_id,
                self._request.pipeline,
                status,
                error[:MAX_ERROR],
                "" if self._request.resume else workflow.info().workflow_id,
                kind=kind,
            ),
            result_type=PipelineResult,
            summary=f"store the status {status}",
            task_queue=self._request.queues.planning,
            start_to_close_timeout=STORE_TIMEOUT,
            retry_policy=ENDING,
        )
        self._enter("done")
        return result

    async def _follow(self, pipelines: list[str]) -> None:
        for name in pipelines:
            # a separate run with its own plan; the submitter's settings apply to it too
            following = replace(
                self._request, pipeline=name, run_id="", identity="", resume=False, schedule=""
            )
            # it is already in progress after an earlier end of the same run
            with suppress(WorkflowAlreadyStartedError):
                await workflow.start_child_workflow(
                    PipelineRun.run,
                    following,
                    id=f"etl/{name}/after-{self._run_id}",
                    static_summary=f"{name}, after run {self._run_id}"[:MAX_SUMMARY],
                    parent_close_policy=ParentClosePolicy.ABANDON,
                )

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._show()
        if self._request.search_attributes and phase != "planning":
            workflow.upsert_search_attributes([PHASE.value_set(phase)])

    def _show(self) -> None:
        """Update the details on Temporal's page."""
        done = sum(map(is_over, self._shards.values()))
        workflow.set_current_details(
            of_run(
                self._request.pipeline,
                self._run_id,
                self._phase,
                self._control,
                (done, len(self._shards)),
                self._chunks,
                self._troubles,
                self._waits_for,
                self._ended,
            )
        )


WORKFLOWS = (PipelineRun, ShardRun)


def _range(request: ShardRequest) -> str:
    chunks = f"chunks {request.next_chunk + 1:,} to {request.end_chunk:,} of {request.splits.chunks:,}"
    return f"{request.splits.node}: {chunks}"[:MAX_SUMMARY]


def _run_id(pipeline: str) -> str:
    """Return an id like that of a local run, the same in every replay.

    Hashes both ids completely: Temporal's run ids start with the time, so those of one second share a prefix.
    """
    info = workflow.info()
    digest = sha256(f"{info.workflow_id}\n{info.run_id}".encode()).hexdigest()
    return f"{pipeline}-{info.start_time:%Y%m%dT%H%M%S}-{digest[:12]}"


def _raise_if_cancelled() -> None:
    """Raise `CancelledError` when the run is cancelled, which the SDK loses if a result coincides."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError
