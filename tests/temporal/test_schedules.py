"""Schedules: runs due while another is running, or while no process can start them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from temporalio.client import Client, ScheduleDescription, ScheduleOverlapPolicy

from engine.errors import ConfigError
from engine.temporal.messages import ChunkRequest, ChunkResult, PipelineRequest
from engine.temporal.schedules import create, delete, listed, pause, unpause
from tests.series import few
from tests.servers.temporal import DevServer, running
from tests.temporal.stubs import Stubs, done
from tests.temporal.workshop import PATIENCE

EVERY_SECOND = "@every 1s"
SHORTEST = timedelta(seconds=10)
"""The server takes no shorter window for what was missed."""
SOON = timedelta(seconds=5)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A server whose schedules are these alone."""
    with running(tmp_path_factory.mktemp("clock")) as started:
        yield started


@pytest.fixture(autouse=True)
def _clock_before_what_is_left_behind_is_counted(clock: DevServer) -> None:
    """As the other server."""


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[DevServer]:
    """A server that knows its schedules when it is started again."""
    with running(tmp_path, database=True) as started:
        yield started


@asynccontextmanager
async def scheduled(stubs: Stubs, pipeline: str, cron: str, **options: Any) -> AsyncGenerator[None, None]:
    """A pipeline that runs by the clock; at the end of the block nothing of it is left."""
    await create(stubs.client, PipelineRequest(pipeline, queues=stubs.queues, priority=4), cron, **options)
    try:
        yield
    finally:
        await delete(stubs.client, pipeline)


async def described(client: Client, pipeline: str) -> ScheduleDescription:
    return await client.get_schedule_handle(f"etl/{pipeline}").describe()


async def until(
    client: Client, pipeline: str, reached: Callable[[ScheduleDescription], bool]
) -> ScheduleDescription:
    """Look at a schedule until it is far enough."""
    with anyio.fail_after(PATIENCE):
        while True:
            found = await described(client, pipeline)
            if reached(found):
                return found
            await anyio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", few(["skip", "buffer_one"], 1))
async def test_overlapping_scheduled_run_is_skipped_or_waits(clock: DevServer, overlap: str) -> None:
    gates = [anyio.Event(), anyio.Event()]

    async def held(request: ChunkRequest) -> ChunkResult:
        await gates[len(stubs.chunks) > 1].wait()
        return await done(request)

    stubs = Stubs(clock.client, splits=1, work=held)
    pipeline = f"clock-{overlap}"
    async with stubs.working(), scheduled(stubs, pipeline, EVERY_SECOND, overlap=overlap):
        found = await until(clock.client, pipeline, lambda found: found.info.num_actions_skipped_overlap >= 2)
        assert len(found.info.running_actions) == found.info.num_actions == 1
        assert found.raw_description.info.buffer_size == (1 if overlap == "buffer_one" else 0)
        (first,) = found.info.recent_actions
        gates[0].set()
        found = await until(clock.client, pipeline, lambda found: found.info.num_actions >= 2)
        second = found.info.recent_actions[1]  # which is held, so that there is no third
        # what has waited is the next that was due; otherwise that one and the one behind it were left out
        assert (second.scheduled_at - first.scheduled_at == timedelta(seconds=1)) is (overlap == "buffer_one")
        history = await clock.client.get_workflow_handle(first.action.workflow_id).fetch_history()  # type: ignore[attr-defined]
        started = history.events[0].workflow_execution_started_event_attributes
        assert started.priority.priority_key == 4
        gates[1].set()
        await pause(clock.client, pipeline)
        await until(clock.client, pipeline, lambda found: not found.info.running_actions)


@pytest.mark.series
async def test_runs_due_during_a_pause_are_not_made_up_for(clock: DevServer) -> None:
    stubs = Stubs(clock.client, splits=1)
    async with stubs.working(), scheduled(stubs, "paused", EVERY_SECOND):
        await until(clock.client, "paused", lambda found: found.info.num_actions >= 1)
        await pause(clock.client, "paused")
        await until(clock.client, "paused", lambda found: found.schedule.state.paused)
        paused = datetime.now(UTC)
        await until_past(paused + timedelta(seconds=2.5))
        resumed = datetime.now(UTC)
        # the server passes over all that was due until now before it heeds this, so no delay lets one through
        await unpause(clock.client, "paused")
        found = await until(
            clock.client, "paused", lambda found: found.info.recent_actions[-1].scheduled_at >= resumed
        )
        missed = [one for one in found.info.recent_actions if paused < one.scheduled_at < resumed]
        assert missed == []
        await pause(clock.client, "paused")
        await until(clock.client, "paused", lambda found: not found.info.running_actions)


@pytest.mark.series
async def test_missed_runs_are_made_up_for_within_the_window(
    lasting: DevServer,
) -> None:
    due, attempt = datetime.now(UTC), 0
    while datetime.now(UTC) >= due:  # a machine that is very slow has another go, with schedules that are new
        attempt += 1
        short, long = f"short-{attempt}", f"long-{attempt}"
        due = (datetime.now(UTC) + SOON).replace(microsecond=0)
        once = f"{due:%S %M %H} * * * *"
        for pipeline, window in ((short, SHORTEST), (long, timedelta(minutes=5))):
            await create(lasting.client, PipelineRequest(pipeline), once, catch_up=window)
            await described(lasting.client, pipeline)  # it has made up its mind when it answers
        lasting.kill()
        if datetime.now(UTC) >= due:
            await asyncio.to_thread(lasting.start)
    await until_past(due + SHORTEST + timedelta(seconds=1))
    await asyncio.to_thread(lasting.start)

    late = await until(lasting.client, long, lambda found: found.info.num_actions >= 1)
    missed = await until(
        lasting.client, short, lambda found: found.info.num_actions_missed_catchup_window >= 1
    )
    assert [one.scheduled_at for one in late.info.recent_actions] == [due]
    assert late.info.num_actions_missed_catchup_window == missed.info.num_actions == 0


@pytest.mark.slow
async def test_a_schedule_of_another_installation_is_not_taken_over(clock: DevServer) -> None:
    own, other = Stubs(clock.client), Stubs(clock.client)
    async with scheduled(own, "taken", "@daily"):
        with pytest.raises(ConfigError, match=f"for the workers of queue '{own.queues.work[:-5]}'"):
            await create(clock.client, PipelineRequest("taken", queues=other.queues), "@hourly")
        (one,) = [one for one in await listed(clock.client) if one.pipeline == "taken"]
        assert one.cron == "@daily"
        assert not await create(clock.client, PipelineRequest("taken", queues=own.queues), "@every 90m")
        (one,) = [one for one in await listed(clock.client) if one.pipeline == "taken"]
        assert one.cron == "@every 90m"


@pytest.mark.slow
async def test_a_schedule_is_in_the_time_zone_of_its_file(clock: DevServer) -> None:
    own = Stubs(clock.client)
    async with scheduled(own, "zoned", "30 2 * * *", time_zone="Asia/Kolkata", overlap="allow_all"):
        found = await described(clock.client, "zoned")
        (one,) = [one for one in await listed(clock.client) if one.pipeline == "zoned"]
        assert (one.cron, one.time_zone) == ("30 2 * * *", "Asia/Kolkata")
        assert {(at.hour, at.minute) for at in found.info.next_action_times} == {(21, 0)}  # UTC
        assert found.schedule.policy.overlap is ScheduleOverlapPolicy.ALLOW_ALL
        with pytest.raises(ConfigError, match="Nowhere"):
            await create(clock.client, PipelineRequest("none"), "@daily", time_zone="Asia/Nowhere")


async def until_past(moment: datetime) -> None:
    while datetime.now(UTC) <= moment:  # noqa: ASYNC110 - there is no event for it
        await anyio.sleep(0.05)
