"""Decisions of the workflows: parking, retries, parts of chunks, followers, ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from engine.state import RunRecord
from engine.temporal.messages import (
    AWAY,
    ChunkRequest,
    ChunkResult,
    Compiled,
    Control,
    Counts,
    PipelineRequest,
)
from engine.temporal.shards import ShardRun
from engine.temporal.starting import request_before
from engine.temporal.workflows import PipelineRun
from tests.series import few
from tests.servers.temporal import DevServer
from tests.temporal.histories import family, kind
from tests.temporal.stubs import Stubs, done
from tests.temporal.workshop import PATIENCE, until


def ended(failure: WorkflowFailureError) -> tuple[str | None, str]:
    """Type and message of what a run has failed with; it is never tried again as a whole."""
    cause = failure.cause
    assert isinstance(cause, ApplicationError)
    assert cause.non_retryable
    return cause.type, cause.message


STUCK = ChunkResult(done=False)
STUCK_TWICE = "2 chunks failed with Stalled: its workers hand it back without progress"
"""Two of them in a row, and a chunk is put aside as stalled."""


@pytest.mark.slow
async def test_failed_chunk_is_parked_and_retried_once_at_the_end(
    server: DevServer,
) -> None:
    async def unlucky(request: ChunkRequest) -> ChunkResult:
        at_first = request.first == 1 and stubs.chunks.count(1) <= 2
        return STUCK if at_first else await done(request)

    stubs = Stubs(server.client, splits=6, work=unlucky)
    async with stubs.working():
        result = await stubs.run(shards=1, window=2)

    assert (result.status, result.failed, result.chunks) == ("completed", 0, 6)
    assert Counter(stubs.chunks) == {0: 1, 1: 3, 2: 1, 3: 1, 4: 1, 5: 1}
    assert stubs.chunks[-1] == 1, "after all others"


@pytest.mark.slow
@pytest.mark.parametrize("allowed", few([0, 2], 1))
async def test_chunks_failing_again_are_reported_and_may_fail_the_run(
    server: DevServer, allowed: int
) -> None:
    async def unlucky(request: ChunkRequest) -> ChunkResult:
        return STUCK if request.first in (2, 4) else await done(request)

    stubs = Stubs(server.client, splits=9, work=unlucky)
    async with stubs.working():
        handle = await stubs.start(shards=1, chunk_splits=2, max_failed_chunks=allowed)
        with anyio.fail_after(PATIENCE):
            if allowed:
                result = await handle.result()
                assert (result.status, result.failed, result.error) == ("interrupted", 2, STUCK_TWICE)
                assert sorted(result.failed_chunks) == ["n0/2+2: Stalled", "n0/4+2: Stalled"]
            else:
                with pytest.raises(WorkflowFailureError) as raised:
                    await handle.result()
                assert ended(raised.value) == ("Stalled", STUCK_TWICE)

    assert Counter(stubs.chunks) == {0: 1, 2: 4, 4: 4, 6: 1, 8: 1}
    assert [one.status for one in stubs.finalized] == ["interrupted" if allowed else "failed"]


@pytest.mark.series
async def test_chunk_in_an_outage_is_not_parked_and_counts_its_wait(
    server: DevServer,
) -> None:
    """The counts are those of a run whose other sink works, or stands still too."""
    told: list[dict[str, float]] = []
    said = [{"load": 1440.0}, {"load": 2880.0, "copy": 60.0}, {"load": 4320.0}, {"load": 5760.0}]

    async def unserved(request: ChunkRequest) -> ChunkResult:
        told.append(request.outages)
        if len(told) > len(said):
            return await done(request)
        outages = said[len(told) - 1]
        written = min(len(told), 2)
        return ChunkResult(False, counts=Counts(written=written), outage=outages["load"], outages=outages)

    stubs = Stubs(server.client, splits=1, work=unserved)
    async with stubs.working():
        result = await stubs.run()

    assert (result.status, result.failed, told) == ("completed", 0, [{}, *said])


@pytest.mark.slow
@pytest.mark.parametrize("kind", few(sorted(AWAY), 1))
async def test_exceeded_outage_parks_the_chunk_for_one_retry(server: DevServer, kind: str) -> None:
    told: list[dict[str, float]] = []

    async def away(request: ChunkRequest) -> ChunkResult:
        if request.first == 0 or (request.first == 1 and stubs.chunks.count(1) == 1):
            told.append(request.outages)
            raise ApplicationError("no service listens", type=kind, non_retryable=True)
        return await done(request)

    stubs = Stubs(server.client, splits=4, work=away)
    async with stubs.working():
        result = await stubs.run(shards=1, window=2, max_failed_chunks=1)

    assert (result.status, result.failed_chunks) == ("interrupted", [f"n0/0+1: {kind}"])
    assert Counter(stubs.chunks) == {0: 2, 1: 2, 2: 1, 3: 1}
    assert sorted(stubs.chunks[-2:]) == [0, 1], "after all others"
    assert told == [{}] * 3, "the limit starts again"


@pytest.mark.series
async def test_a_listing_that_is_handed_back_starts_again_every_time(server: DevServer) -> None:
    stubs = Stubs(server.client, splits=3, stops=25)  # more than it has attempts
    async with stubs.working():
        result = await stubs.run(shards=1)

    assert (result.status, result.chunks, stubs.stops, sorted(stubs.chunks)) == ("completed", 3, 0, [0, 1, 2])


@pytest.mark.series
async def test_chunk_size_is_fixed_for_the_run(server: DevServer) -> None:
    stubs = Stubs(server.client, splits=9, chunk_splits=4)
    async with stubs.working():
        result = await stubs.run(shards=1, chunk_splits=2)

    assert (result.status, result.chunks, sorted(stubs.chunks)) == ("completed", 3, [0, 4, 8])


@pytest.mark.series
async def test_chunks_have_ten_attempts_a_heartbeat_and_no_queue_limit(
    server: DevServer,
) -> None:
    stubs = Stubs(server.client, splits=1)
    async with stubs.working():
        handle = await stubs.start(heartbeat=20.0)
        with anyio.fail_after(PATIENCE):
            await handle.result()
        [[shard]] = (await family(stubs.client, handle.id)).shards

    [how] = [
        event.activity_task_scheduled_event_attributes
        for event in shard.events
        if kind(event) == "ACTIVITY_TASK_SCHEDULED"
    ]
    assert how.retry_policy.maximum_attempts == 10
    assert (how.heartbeat_timeout.seconds, how.start_to_close_timeout.seconds) == (20, 1800)
    assert how.schedule_to_close_timeout.seconds == 0


@pytest.mark.slow
async def test_chunk_continues_in_parts_while_it_makes_progress(server: DevServer) -> None:
    written = 0

    async def piecemeal(request: ChunkRequest) -> ChunkResult:
        nonlocal written
        written += 10
        return ChunkResult(done=written == 50, counts=Counts(read=written, written=written))

    stubs = Stubs(server.client, splits=1, work=piecemeal)
    async with stubs.working():
        result = await stubs.run()

    assert (result.status, len(stubs.chunks)) == ("completed", 5)


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "parts"), few([(False, 6), (True, 11)], 1, several=True))
async def test_parts_without_progress_stall_unless_workers_stopped(
    server: DevServer, *, stopped: bool, parts: int
) -> None:
    async def stuck(request: ChunkRequest) -> ChunkResult:
        enough = len(stubs.chunks) == 11
        return ChunkResult(done=enough, stopped=stopped, counts=Counts(read=5))

    stubs = Stubs(server.client, splits=1, work=stuck)
    async with stubs.working():
        result = await stubs.run(max_failed_chunks=1)

    assert len(stubs.chunks) == parts, "three parts, twice, or until it is done"
    assert result.failed_chunks == ([] if stopped else ["n0/0+1: Stalled"])


@pytest.mark.series
async def test_an_unreadable_heartbeat_restarts_the_chunk(server: DevServer) -> None:
    """What the SDK reports when the codec of an earlier worker is gone."""

    async def unreadable(request: ChunkRequest) -> ChunkResult:
        if len(stubs.chunks) == 1:
            raise ApplicationError("Failed decoding heartbeat details", non_retryable=True)
        return await done(request)

    stubs = Stubs(server.client, splits=1, work=unreadable)
    async with stubs.working():
        result = await stubs.run()

    assert (result.status, len(stubs.chunks)) == ("completed", 2)


@pytest.mark.slow
@pytest.mark.parametrize("retries", few([1, 0], 1))
async def test_the_retries_of_a_pipeline_begin_all_chunks_again(server: DevServer, retries: int) -> None:
    async def at_first(request: ChunkRequest) -> ChunkResult:
        return STUCK if request.first == 0 and stubs.chunks.count(0) <= 4 else await done(request)

    compiled = Compiled(identity="i", sources=["n0"], retries=retries)
    stubs = Stubs(server.client, splits=2, work=at_first, compiled=compiled)
    async with stubs.working():
        result = await stubs.run(shards=1, max_failed_chunks=1)

    assert result.status == ("completed" if retries else "interrupted")
    assert Counter(stubs.chunks) == ({0: 5, 1: 2} if retries else {0: 4, 1: 1})


@pytest.mark.slow
async def test_a_run_that_takes_too_long_is_stopped_and_fails_with_timeout(server: DevServer) -> None:
    async def waits_to_be_told(request: ChunkRequest) -> ChunkResult:
        while not activity.is_cancelled():
            activity.heartbeat()
            await anyio.sleep(0.05)
        raise AssertionError

    compiled = Compiled(identity="i", sources=["n0"], timeout=0.5, retries=1)
    stubs = Stubs(server.client, work=waits_to_be_told, compiled=compiled)
    async with stubs.working():
        handle = await stubs.start(shards=2)
        with anyio.fail_after(PATIENCE), pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
        root = (await family(stubs.client, handle.id)).root

    assert ended(raised.value) == ("Timeout", "'test' ran longer than 0.5 s")
    begun = [kind(event) for event in root.events].count("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    assert begun == 2 * 2, "two shards, and once more"
    assert [one.status for one in stubs.finalized] == ["failed"]


@pytest.mark.series
async def test_a_run_that_has_timed_out_once_is_completed(server: DevServer) -> None:
    async def slow_at_first(request: ChunkRequest) -> ChunkResult:
        if len(stubs.chunks) > 1:
            return await done(request)
        while not activity.is_cancelled():
            activity.heartbeat()
            await anyio.sleep(0.05)
        raise AssertionError

    # on a very slow machine, one that does not wait may need too long as well
    compiled = Compiled(identity="i", sources=["n0"], timeout=6.0, retries=5)
    stubs = Stubs(server.client, splits=1, work=slow_at_first, compiled=compiled)
    async with stubs.working():
        result = await stubs.run(shards=1)

    assert result.status == "completed"
    assert len(stubs.chunks) > 1


def run_after(run: str, pipeline: str) -> RunRecord:
    """What the store would have of a run that follows another."""
    group = f"etl/{pipeline}/after-{run}"
    return RunRecord(f"{pipeline}-1", pipeline, group, "i", {}, {}, {}, "seed", "")


@pytest.mark.slow
async def test_followers_start_after_completion_or_cancellation(
    server: DevServer,
) -> None:
    gate = anyio.Event()

    async def held(request: ChunkRequest) -> ChunkResult:
        while not gate.is_set():
            activity.heartbeat()
            await anyio.sleep(0.05)
        return await done(request)

    asked: dict[str, Any] = {
        "params": {"after": {"days": 2}, "tidy": {"days": 3}},
        "shards": 2,
        "window": 3,
        "chunk_splits": 5,
        "max_failed_chunks": 4,
        "priority": 1,
    }
    stubs = Stubs(server.client, work=held)
    stubs.compiled = Compiled(identity="i", sources=["n0"], on_complete=["after"], on_cancel=["tidy"])
    async with stubs.working():
        cancelled = await stubs.start(**asked)
        await until(cancelled, lambda progress: progress.phase == "running")
        await cancelled.cancel()
        with anyio.fail_after(PATIENCE), pytest.raises(WorkflowFailureError) as raised:
            await cancelled.result()
        assert isinstance(raised.value.cause, CancelledError)
        gate.set()
        completed = await stubs.start(**asked)
        with anyio.fail_after(PATIENCE):
            await completed.result()
        for handle, follower, other in ((cancelled, "tidy", "after"), (completed, "after", "tidy")):
            key = handle.id.rpartition("/")[2]
            assert await request_before(server.client, run_after(key, follower)) == PipelineRequest(
                follower, queues=stubs.queues, heartbeat=PATIENCE, **asked
            )
            assert await request_before(server.client, run_after(key, other)) is None

    assert [one.status for one in stubs.finalized][:2] == ["interrupted", "completed"]


@pytest.mark.slow
async def test_a_shard_that_fails_stops_the_others_at_once(server: DevServer) -> None:
    """The last of four shards fails; the first ones would never end."""

    async def one_fails(request: ChunkRequest) -> ChunkResult:
        if request.first == 3:
            raise ApplicationError("revoked", type="AuthError", non_retryable=True)
        while True:
            activity.heartbeat()
            await anyio.sleep(0.05)

    stubs = Stubs(server.client, splits=4, work=one_fails)
    async with stubs.working():
        with pytest.raises(WorkflowFailureError) as raised:
            await stubs.run(shards=4)

    assert ended(raised.value) == ("AuthError", "revoked")


@pytest.mark.series
async def test_control_before_shards_is_kept_and_bad_windows_refused(
    server: DevServer,
) -> None:
    listing = anyio.Event()
    stubs = Stubs(server.client, splits=6, listing=listing.wait)
    async with stubs.working():
        handle = await stubs.start(shards=2)
        await until(handle, lambda progress: progress.phase == "listing")
        with anyio.fail_after(PATIENCE):
            assert await handle.execute_update(PipelineRun.pause) == Control(paused=True, window=8)
            for window in (0, 201):
                with pytest.raises(WorkflowUpdateFailedError) as raised:
                    await handle.execute_update(PipelineRun.set_window, window)
                assert f"the window must be from 1 to 200 chunks, got {window}" in str(raised.value.cause)
            listing.set()
            await until(handle, lambda progress: progress.shards == 2)
            shard = stubs.client.get_workflow_handle_for(ShardRun.run, f"{handle.id}/s1")
            assert (await shard.query(ShardRun.progress)).control == Control(paused=True, window=8)
            assert stubs.chunks == []
            await handle.execute_update(PipelineRun.resume)
            assert (await handle.result()).status == "completed"


@pytest.mark.slow
async def test_drained_run_ends_as_interrupted_after_its_open_work(server: DevServer) -> None:
    gate = anyio.Event()

    async def held(request: ChunkRequest) -> ChunkResult:
        await gate.wait()
        return await done(request)

    stubs = Stubs(server.client, splits=9, work=held)
    stubs.compiled = Compiled(identity="i", sources=["n0"], on_complete=["after"], on_cancel=["tidy"])
    async with stubs.working():
        handle = await stubs.start(shards=1, window=2, heartbeat=60.0)
        with anyio.fail_after(PATIENCE):
            while len(stubs.chunks) < 2:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.02)
            await handle.execute_update(PipelineRun.drain)
            await handle.execute_update(PipelineRun.resume)  # there is no way back from a drain
            gate.set()
            result = await handle.result()
        key = handle.id.rpartition("/")[2]
        await stubs.client.get_workflow_handle_for(PipelineRun.run, f"etl/tidy/after-{key}").describe()

    assert (result.status, result.failed) == ("interrupted", 0)
    assert sorted(stubs.chunks)[:2] == [0, 1]


@pytest.mark.series
async def test_more_shards_than_a_server_takes_end_the_run_with_a_message(server: DevServer) -> None:
    sources = [f"n{number}" for number in range(30)]
    stubs = Stubs(server.client, splits=20, compiled=Compiled(identity="i", sources=sources))
    async with stubs.working():
        with pytest.raises(WorkflowFailureError) as raised:
            await stubs.run(shards=20)

    kind, message = ended(raised.value)
    assert kind == "ConfigError"
    assert message.startswith("30 sources with 20 shards each make 600 shards, 500 are the most")
    assert [one.status for one in stubs.finalized] == ["failed"]
