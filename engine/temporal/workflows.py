"""The decisions: which chunks are under way, what is tried again, when a run has ended.

This module, `shards` and `messages` are all that Temporal's sandbox loads; none of them imports anything
that does I/O.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

from engine.temporal.messages import (
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
)
from engine.temporal.shards import HEARTBEAT, ShardRun

__all__ = ["WORKFLOWS", "PipelineRun"]

MOST_CHUNKS = 2000
"""Chunks that a source is divided into when nobody says how large one is to be."""

PLANNING = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=20
)


@workflow.defn
class PipelineRun:
    """One run of a pipeline: compiles, lists, hands out the chunks to shards, and enters how it ended."""

    @workflow.init
    def __init__(self, request: PipelineRequest) -> None:
        self._request = request
        self._run_id = request.run_id or _run_id(request.pipeline)
        self._control = Control(window=request.window)
        self._phase = ""
        self._chunks = 0
        self._shards: dict[str, workflow.ChildWorkflowHandle[Any, ShardResult]] = {}
        self._done_shards = 0

    @workflow.run
    async def run(self, request: PipelineRequest) -> PipelineResult:
        self._enter("planning")
        compiled = Compiled()
        try:
            compiled = await self._compile()
            splits = await self._list(compiled)
            results = await self._attempts(compiled, splits)
        except asyncio.CancelledError:
            return await self._cancelled(compiled)
        except FailureError as error:
            if _is_cancelled(error):
                return await self._cancelled(compiled)
            await self._fail(_innermost(error))
        return await self._conclude(compiled, results)

    @workflow.update
    async def pause(self) -> Control:
        """Begin no more chunks; those under way go on."""
        return await self._steer(Control(True, self._control.draining, self._control.window))

    @workflow.update
    async def resume(self) -> Control:
        """Begin chunks again."""
        return await self._steer(Control(False, self._control.draining, self._control.window))

    @workflow.update
    async def set_window(self, window: int) -> Control:
        """Have so many chunks under way in each shard."""
        return await self._steer(Control(self._control.paused, self._control.draining, window))

    @set_window.validator
    def _check_window(self, window: int) -> None:
        if not 1 <= window <= 200:
            raise ValueError(f"a window is from 1 to 200 chunks, not {window}")

    @workflow.update
    async def drain(self) -> Control:
        """Begin no more chunks, and end the run as interrupted when those under way are done; for good."""
        return await self._steer(Control(self._control.paused, True, self._control.window))

    @workflow.query
    def progress(self) -> PipelineProgress:
        """How far it is; the counts are in the ledger."""
        return PipelineProgress(
            self._run_id,
            self._phase,
            self._chunks,
            len(self._shards),
            self._done_shards,
            self._control,
            list(self._shards),
        )

    async def _steer(self, control: Control) -> Control:
        self._control = control
        for shard in list(self._shards.values()):
            if not shard.done():
                await self._tell(shard, control)
        return control

    async def _tell(self, shard: workflow.ChildWorkflowHandle[Any, ShardResult], control: Control) -> None:
        try:
            await shard.signal(ShardRun.control, control)
        except FailureError:
            if not shard.done():  # one that ended in this very moment has nothing left to begin
                raise

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
            ),
            result_type=Compiled,
            task_queue=request.queues.planning,
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PLANNING,
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
        request, splits = self._request, []
        for node in compiled.sources:
            listed = await workflow.execute_activity(
                "list_chunks",
                ListRequest(self._run_id, request.pipeline, compiled.identity, node),
                result_type=Listed,
                task_queue=request.queues.planning,
                start_to_close_timeout=timedelta(hours=6),
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PLANNING,
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            size = request.chunk_splits or -(-listed.splits // MOST_CHUNKS)
            splits.append(Splits(node, listed.splits, max(1, size)))
        self._chunks = sum(one.chunks for one in splits)
        return splits

    async def _attempts(self, compiled: Compiled, splits: list[Splits]) -> list[ShardResult]:
        """The chunks of the run, once and then as often as the pipeline's `retries` allow."""
        self._enter("running")
        for attempt in range(compiled.retries + 1):
            last = attempt == compiled.retries
            try:
                results = await self._within(compiled.timeout, compiled, splits)
            except ChildWorkflowError as error:
                cause = _innermost(error)
                if (
                    last
                    or _is_cancelled(error)
                    or (isinstance(cause, ApplicationError) and cause.non_retryable)
                ):
                    raise
            else:
                if last or not any(result.failed for result in results):
                    return results
            await workflow.sleep(min(2**attempt, 60))
        raise AssertionError("the last attempt returns or raises")

    async def _within(
        self, seconds: float | None, compiled: Compiled, splits: list[Splits]
    ) -> list[ShardResult]:
        limit = timedelta(seconds=seconds) if seconds is not None else None
        work = asyncio.create_task(self._all_shards(compiled, splits))
        try:
            await workflow.wait_condition(work.done, timeout=limit)
        except TimeoutError:
            work.cancel()
            await workflow.wait_condition(work.done)
            late = f"{self._request.pipeline!r} ran longer than {seconds:g} s"
            raise ApplicationError(late, type="Timeout", non_retryable=True) from None
        except asyncio.CancelledError:
            work.cancel()
            await workflow.wait_condition(work.done)
            raise
        return work.result()

    async def _all_shards(self, compiled: Compiled, splits: list[Splits]) -> list[ShardResult]:
        self._shards, self._done_shards = {}, 0
        handles = [
            await self._start(number, one) for number, one in enumerate(self._divide(compiled, splits))
        ]
        try:
            return [await self._joined(handle) for handle in handles]
        except BaseException:
            # one shard has failed, or the run was cancelled: the others deliver what they have read, and end
            for handle in handles:
                handle.cancel()
            await workflow.wait_condition(lambda: all(handle.done() for handle in handles))
            raise

    async def _joined(self, handle: workflow.ChildWorkflowHandle[Any, ShardResult]) -> ShardResult:
        result: ShardResult = await handle
        self._done_shards += 1
        return result

    def _divide(self, compiled: Compiled, splits: list[Splits]) -> list[ShardRequest]:
        """Ranges of chunks of nearly the same size, at most `shards` of them for each source."""
        requests: list[ShardRequest] = []
        for one in splits:
            shards = max(1, min(self._request.shards, one.chunks))
            bounds = [one.chunks * number // shards for number in range(shards + 1)]
            for first, end in pairwise(bounds):
                if first == end:
                    continue
                requests.append(
                    ShardRequest(
                        self._run_id,
                        self._request.pipeline,
                        compiled.identity,
                        one,
                        first,
                        end,
                        self._control,
                        queues=self._request.queues,
                    )
                )
        return requests

    async def _start(
        self, number: int, request: ShardRequest
    ) -> workflow.ChildWorkflowHandle[Any, ShardResult]:
        name = f"{workflow.info().workflow_id}/s{number}"
        handle = await workflow.start_child_workflow(
            ShardRun.run,
            request,
            id=name,
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        self._shards[name] = handle
        if self._control != request.control:  # somebody has steered while it started
            await self._tell(handle, self._control)
        return handle

    async def _conclude(self, compiled: Compiled, results: list[ShardResult]) -> PipelineResult:
        failed = [one for result in results for one in result.failed]
        drained = any(result.drained for result in results)
        if len(failed) > self._request.max_failed_chunks:
            kinds = ", ".join(sorted({one.error for one in failed}))
            await self._fail(
                ApplicationError(f"{len(failed)} chunks failed with {kinds}", type=failed[-1].error)
            )
        status = "interrupted" if drained or failed else "completed"
        error = f"{len(failed)} chunks failed" if failed else ""
        result = await self._finalize(status, error)
        result.chunks, result.failed_chunks = self._chunks, [f"{one.chunk}: {one.error}" for one in failed]
        if status == "completed":
            await self._follow(compiled.on_complete)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _cancelled(self, compiled: Compiled) -> PipelineResult:
        await self._finalize("interrupted", "cancelled")
        await self._follow(compiled.on_cancel)
        raise CancelledError("the run was cancelled; it can be resumed")

    async def _fail(self, cause: BaseException) -> None:
        """Enter the failure and end as failed with it. Never returns."""
        await self._finalize("failed", str(cause))
        kind = cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
        raise ApplicationError(str(cause), type=kind or "InternalError", non_retryable=True)

    async def _finalize(self, status: str, error: str) -> PipelineResult:
        self._enter("finalizing")
        result: PipelineResult = await workflow.execute_activity(
            "finalize_run",
            FinalizeRequest(self._run_id, self._request.pipeline, status, error[:500]),
            result_type=PipelineResult,
            task_queue=self._request.queues.planning,
            start_to_close_timeout=timedelta(minutes=15),
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PLANNING,
        )
        self._enter("done")
        return result

    async def _follow(self, pipelines: list[str]) -> None:
        request = self._request
        for name in pipelines:
            await workflow.start_child_workflow(
                PipelineRun.run,
                PipelineRequest(
                    name,
                    params=request.params,
                    shards=request.shards,
                    window=request.window,
                    queues=request.queues,
                    search_attributes=request.search_attributes,
                ),
                id=f"etl/{name}/after-{self._run_id}",
                parent_close_policy=ParentClosePolicy.ABANDON,
            )

    def _enter(self, phase: str) -> None:
        self._phase = phase
        if self._request.search_attributes and phase != "planning":
            workflow.upsert_search_attributes([PHASE.value_set(phase)])


WORKFLOWS = (PipelineRun, ShardRun)


def _run_id(pipeline: str) -> str:
    """As a local run would be called; the same in every replay."""
    info = workflow.info()
    return f"{pipeline}-{info.start_time:%Y%m%dT%H%M%S}-{info.run_id[:6]}"


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    return error


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(_innermost(error), CancelledError)
