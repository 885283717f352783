"""A shard of a run: a range of chunks, processed with bounded concurrency.

Loaded by Temporal's sandbox: nothing here imports anything that does I/O.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, FailureError
from temporalio.workflow import ActivityCancellationType

from engine.temporal.details import of_shard
from engine.temporal.messages import (
    AWAY,
    MAX_PARKED,
    ChunkRequest,
    ChunkResult,
    Control,
    Counts,
    ShardProgress,
    ShardRequest,
    ShardResult,
    Splits,
    chunk_range,
)

PARTS_WITHOUT_PROGRESS = 2
MAX_REASON = 500
MAX_SUMMARY = 200
MAX_DELAY = 15.0
UNREADABLE_HEARTBEAT = "Failed decoding heartbeat details"
# bounds attempts, not time: a long wait for a worker is not a failure of the chunk
RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=2),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=60),
    maximum_attempts=10,
)


@workflow.defn
class ShardRun:
    """Processes a range of chunks; failed ones are parked and retried once at the end."""

    @workflow.init
    def __init__(self, request: ShardRequest) -> None:
        self._state = request
        self._open: dict[int, asyncio.Task[None]] = {}
        self._failure: ApplicationError | None = None
        self._outage: list[str] = []  # type and message of an outage that no chunk here got through
        self._stopping = False
        self._began = workflow.now().timestamp()
        self._show()

    @workflow.run
    async def run(self, request: ShardRequest) -> ShardResult:
        try:
            await self._work()
        except asyncio.CancelledError:
            await self._give_up()
            raise
        self._show()  # the failure that ends it
        if self._failure is not None:
            await self._give_up()
            raise self._failure
        state, unfinished = self._state, self._unfinished
        if self._outage:
            await workflow.wait_condition(workflow.all_handlers_finished)
            return ShardResult(
                state.counts, state.done_chunks, reasons=dict(state.reasons), outage=self._outage
            )
        if unfinished and not state.control.draining:
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(state)
        # chunks left by a drain before their second attempt have not failed yet
        failed = state.parked if state.second_try else {}
        return ShardResult(
            state.counts, state.done_chunks, failed, drained=unfinished, reasons=dict(state.reasons)
        )

    @workflow.signal
    def control(self, control: Control) -> None:
        """Apply a new control state."""
        now = self._state.control
        draining = control.draining or now.draining  # a drain is final
        self._state.control = Control(control.paused, draining, control.window or now.window)
        self._show()

    @workflow.query
    def progress(self) -> ShardProgress:
        """Return the progress."""
        state = self._state
        return ShardProgress(
            state.done_chunks,
            len(self._open),
            state.end_chunk - state.next_chunk + len(state.to_retry),
            sum(map(len, state.parked.values())),
            state.control,
            state.counts,
        )

    async def _work(self) -> None:
        """Keep the window full until nothing is left to start, then wait for the chunks in progress."""
        while self._failure is None:
            while self._may_begin():
                chunk = self._take()
                self._open[chunk] = asyncio.create_task(self._see_through(chunk))
                self._show()
            if self._is_finished():
                return
            await workflow.wait_condition(
                lambda: self._may_begin() or self._is_finished() or self._failure is not None
            )

    def _may_begin(self) -> bool:
        state = self._state
        if state.control.paused or state.control.draining or self._yields():
            return False
        if self._failure is not None or self._outage:
            return False
        if len(self._open) >= state.control.window:
            return False
        return state.next_chunk < state.end_chunk or bool(state.to_retry) or self._second_try_is_due()

    def _is_finished(self) -> bool:
        over = self._state.control.draining or bool(self._outage) or not self._unfinished
        return not self._open and (over or self._yields())

    def _second_try_is_due(self) -> bool:
        """Return whether only parked chunks are left."""
        return not self._open and not self._state.second_try and bool(self._state.parked)

    def _take(self) -> int:
        state = self._state
        if state.next_chunk == state.end_chunk and not state.to_retry:
            state.second_try, state.to_retry = True, [one for some in state.parked.values() for one in some]
            state.parked = {}
        if state.to_retry:
            return state.to_retry.pop(0)
        state.next_chunk += 1
        return state.next_chunk - 1

    @property
    def _unfinished(self) -> bool:
        state = self._state
        waiting = bool(state.parked) and not state.second_try
        return state.next_chunk < state.end_chunk or bool(state.to_retry) or waiting

    def _yields(self) -> bool:
        """Return whether the history is so long that a new execution should continue."""
        return workflow.info().is_continue_as_new_suggested()

    async def _see_through(self, chunk: int) -> None:
        try:
            await self._chunk(chunk)
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, CancelledError):
                self._put_back(chunk)
            elif isinstance(cause, ApplicationError) and cause.non_retryable and cause.type not in AWAY:
                self._failure = self._failure or ApplicationError(
                    cause.message, type=cause.type, non_retryable=True
                )
            elif isinstance(cause, ApplicationError) and self._nothing_got_through(cause):
                self._outage = [_kind(cause), cause.message]
                self._put_back(chunk)
            else:
                # an outage may be over once all other chunks are done
                self._park(chunk, _kind(cause), _text(cause))
        except asyncio.CancelledError:
            self._put_back(chunk)
        finally:
            del self._open[chunk]
        self._show()  # not above, which a workflow evicted from its worker's cache also reaches

    def _nothing_got_through(self, cause: ApplicationError) -> bool:
        """Return whether no other chunk of the shard progressed, so an outage affects the whole run."""
        waited = cause.details[0] if cause.details else None
        if cause.type not in AWAY or not isinstance(waited, int | float) or waited <= 0:
            return False  # another failure, or that of a worker that does not report its waiting time
        # progress of other chunks is reported with a small delay
        since = workflow.now().timestamp() - waited + min(waited / 4, MAX_DELAY)
        return self._state.progress_at <= since

    def _note_progress(self) -> None:
        self._state.progress_at = workflow.now().timestamp()
        self._outage = []  # it is over for one chunk, so it may be over for the others

    async def _chunk(self, chunk: int) -> None:
        """Process one chunk to its end, in as many parts as its workers hand back."""
        state, before, stuck, outages = self._state, Counts(), 0, dict[str, float]()
        while True:
            result = await self._part(chunk, outages)
            if result.done:
                self._note_progress()
                state.counts.add(result.counts)
                state.done_chunks += 1
                return
            # check the flag, because the SDK loses a cancellation that coincides with a result
            if state.control.draining or self._stopping:
                self._put_back(chunk)
                return
            outages = result.outages
            if result.counts != before:
                self._note_progress()
                before, stuck = result.counts, 0
            # stopping workers may hand it back without progress any number of times, and so may those that
            # wait for an outage to end, which report when it has lasted too long
            elif not result.stopped and not result.outage:
                stuck += 1
            if stuck >= PARTS_WITHOUT_PROGRESS:
                self._park(chunk, "Stalled", "its workers hand it back without progress")
                return

    async def _part(self, chunk: int, outages: dict[str, float]) -> ChunkResult:
        try:
            return await self._attempts(chunk, outages)
        except ActivityError as error:
            if not _has_unreadable_heartbeat(error):
                raise
            # a new activity has no earlier heartbeat; the ledger has the position to continue from
            return await self._attempts(chunk, outages)

    async def _attempts(self, chunk: int, outages: dict[str, float]) -> ChunkResult:
        state = self._state
        first, count = chunk_range(state.splits, chunk)
        request = ChunkRequest(
            state.run_id, state.pipeline, state.identity, state.splits.node, first, count, outages
        )
        result: ChunkResult = await workflow.execute_activity(
            "run_chunk",
            request,
            result_type=ChunkResult,
            task_queue=state.queues.work,
            summary=_summary(state.splits, chunk),
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(seconds=state.heartbeat),
            retry_policy=RETRY,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return result

    def _put_back(self, chunk: int) -> None:
        self._state.to_retry.append(chunk)

    def _park(self, chunk: int, why: str, text: str) -> None:
        parked = self._state.parked
        self._state.reasons[why] = text[:MAX_REASON]
        parked.setdefault(why, []).append(chunk)
        if sum(map(len, parked.values())) > MAX_PARKED:
            self._failure = self._failure or ApplicationError(
                f"more than {MAX_PARKED} chunks failed, the last with {why}: {text}", type="ChunksFailed"
            )

    def _show(self) -> None:
        """Update the details on Temporal's page."""
        seconds = workflow.now().timestamp() - self._began
        failure = self._failure.message if self._failure is not None else " ".join(self._outage)
        workflow.set_current_details(of_shard(self._state, len(self._open), seconds, failure))

    async def _give_up(self) -> None:
        """Stop the chunks in progress, and wait until they have delivered what they had read."""
        self._stopping = True
        for task in list(self._open.values()):
            task.cancel()
        while self._open:
            with suppress(asyncio.CancelledError):  # the shard may be cancelled while it gives up
                await workflow.wait_condition(lambda: not self._open)


def _kind(cause: BaseException | None) -> str:
    if isinstance(cause, ApplicationError) and cause.type:
        return cause.type
    return type(cause).__name__ if cause is not None else "Unknown"


def _text(cause: BaseException | None) -> str:
    """Return the message of a failure for users."""
    return cause.message if isinstance(cause, FailureError) else str(cause)


def _summary(splits: Splits, chunk: int) -> str:
    first, count = chunk_range(splits, chunk)
    return f"{splits.node}: splits {first + 1:,} to {first + count:,} of {splits.total:,}"[:MAX_SUMMARY]


def _has_unreadable_heartbeat(error: ActivityError) -> bool:
    cause = error.cause
    return isinstance(cause, ApplicationError) and cause.message == UNREADABLE_HEARTBEAT
