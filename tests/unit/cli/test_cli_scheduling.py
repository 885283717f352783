"""Scheduled runs: each tick once, across restarts, and killed runs continue."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from engine.cli.local.hosting import SERVED
from engine.cli.local.operating import PipelineOperations, RunLog
from engine.cli.local.scheduling import RETRY_AFTER, Scheduler
from engine.contract.clock import SystemClock
from engine.errors import ServiceError
from engine.execution.engine import Engine
from engine.execution.session import new_group
from engine.state.records import RunRecord, RunStatus

FILE = """\
version: 1
pipelines:
  hourly:
    schedule: "0 * * * *"
    catch_up: CATCH_UP
    if_running: POLICY
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: out.jsonl}}
"""
NOON = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


class Clock(SystemClock):
    """Says what it is told."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1}) + "\n")
    write_file()
    return tmp_path


def write_file(policy: str = "skip", catch_up: str = "2h", schedule: str = "0 * * * *") -> None:
    text = FILE.replace("POLICY", policy).replace("CATCH_UP", catch_up)
    Path("p.yaml").write_text(text.replace("0 * * * *", schedule))


@asynccontextmanager
async def serving(clock: Clock) -> AsyncIterator[tuple[Scheduler, Engine]]:
    """One life of a service; it ends once its runs have."""
    host = PipelineOperations("p.yaml", RunLog())
    async with Engine(state_dir=".odw", clock=clock) as engine, anyio.create_task_group() as group:
        host.attach(engine, group)
        scheduler = Scheduler(host, engine, lambda text: None)
        await scheduler.look_back()
        yield scheduler, engine


async def runs_of(engine: Engine) -> list[str]:
    return [one.run_id for one in await engine.store.list_runs()]


def names(*hours: int) -> list[str]:
    return [f"hourly-tick-20260101T{hour:02}0000Z" for hour in hours]


async def live(clock: Clock, *moments: datetime) -> list[str]:
    """A life that looks at the clock at these moments; the runs that there are behind it."""
    async with serving(clock) as (scheduler, engine):
        for moment in moments:
            clock.moment = moment
            await scheduler.start_due()
    async with Engine(state_dir=".odw", clock=clock) as engine:
        return await runs_of(engine)


@pytest.mark.slow
async def test_a_tick_starts_one_run_however_often_it_is_seen(folder: Path) -> None:
    one = NOON + timedelta(hours=1)
    assert await live(Clock(NOON), NOON, one, one, one + timedelta(minutes=1)) == names(13)
    assert json.loads((folder / "out.jsonl").read_text()) == {"id": 1}


@pytest.mark.slow
async def test_a_restart_starts_no_tick_again() -> None:
    one = NOON + timedelta(hours=1)
    await live(Clock(NOON), one)
    assert await live(Clock(one), one, one + timedelta(seconds=5)) == names(13)


@pytest.mark.slow
async def test_what_was_missed_is_caught_up_with_once() -> None:
    await live(Clock(NOON), NOON + timedelta(hours=1))
    later = NOON + timedelta(hours=3)
    assert await live(Clock(later), later) == names(13, 15)


@pytest.mark.slow
async def test_where_runs_may_overlap_every_missed_tick_is_run() -> None:
    write_file("allow")
    await live(Clock(NOON), NOON + timedelta(hours=1))
    later = NOON + timedelta(hours=3)
    assert await live(Clock(later), later) == names(13, 14, 15)


@pytest.mark.slow
async def test_a_kill_while_catching_up_leaves_no_tick_out() -> None:
    write_file("allow", catch_up="4h")
    await live(Clock(NOON), NOON + timedelta(hours=1))
    later = NOON + timedelta(hours=4)
    async with serving(Clock(later)) as (scheduler, _):  # killed behind the first of three missed ticks
        await scheduler._start(scheduler._entries[0], NOON.replace(hour=14, second=0))
    assert await live(Clock(later), later) == names(13, 14, 15, 16)


@pytest.mark.slow
async def test_a_clock_that_is_set_back_starts_no_tick_again() -> None:
    write_file("wait")
    one, two, far = (NOON + timedelta(hours=hours) for hours in (1, 2, 100))
    started = await live(Clock(NOON), one, far, NOON, one, two)
    assert sorted(started) == [*names(13, 14), "hourly-tick-20260105T160000Z"]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "count"), [("skip", 1), ("allow", 10)])
async def test_a_long_pause_ends_with_the_latest_ticks(policy: str, count: int) -> None:
    write_file(policy, catch_up="300d", schedule="@every 1s")
    clock = Clock(NOON)
    async with serving(clock) as (scheduler, _):
        started: list[datetime] = []

        async def start(entry: object, tick: datetime) -> None:
            started.append(tick)

        scheduler._start = start  # type: ignore[method-assign, assignment]
        clock.moment = NOON + timedelta(days=200)
        await scheduler.start_due()
    assert started == [clock.moment - timedelta(seconds=back) for back in reversed(range(count))]


@pytest.mark.slow
async def test_what_is_older_than_the_window_is_left_out() -> None:
    write_file(catch_up="10m")
    await live(Clock(NOON), NOON + timedelta(hours=1))
    later = NOON + timedelta(hours=3, minutes=30)
    assert await live(Clock(later), later) == names(13)


async def test_what_was_never_run_has_missed_nothing() -> None:
    assert await live(Clock(NOON), NOON) == []


@pytest.mark.slow
async def test_a_tick_is_skipped_while_a_run_is_under_way() -> None:
    clock = Clock(NOON + timedelta(minutes=59, seconds=25))
    async with serving(clock) as (scheduler, engine):
        plan = scheduler._host.plans["hourly"]
        async with engine.start(plan) as under_way:
            clock.moment += timedelta(seconds=10)  # its lease is still good
            await scheduler.start_due()
            await anyio.wait_all_tasks_blocked()
            assert await runs_of(engine) == [under_way.run_id]
            await under_way.wait()


@pytest.mark.slow
async def test_a_run_that_was_killed_resumes(folder: Path) -> None:
    clock = Clock(NOON)
    async with serving(clock) as (scheduler, engine):
        plan = scheduler._host.plans["hourly"]
        killed = await engine.begin(plan, run_id="hourly-killed", group_id=f"{SERVED}x")
        await engine.begin(plan, run_id="by-hand", group_id="y")
        await scheduler.resume_killed()
    async with Engine(state_dir=".odw", clock=clock) as engine:
        record: RunRecord = await engine.store.get_run(killed.run_id)
        assert (record.status, record.attempt) == (RunStatus.COMPLETED, 2)
        assert (await engine.store.get_run("by-hand")).status is RunStatus.RUNNING


@pytest.mark.slow
async def test_runs_of_the_same_moment_have_ids_of_their_own() -> None:
    async with serving(Clock(NOON)) as (scheduler, engine):
        plan = scheduler._host.plans["hourly"]
        groups = {new_group(engine) for _ in range(100)}
        runs = [await engine.begin(plan, group_id=group) for group in groups]
    assert len(groups) == len({run.run_id for run in runs}) == 100


async def test_views_say_when_the_next_run_is_due() -> None:
    async with serving(Clock(NOON)) as (scheduler, _):
        (view,) = scheduler.views()
    assert (view.pipeline, view.overlap, view.next_at) == (
        "hourly",
        "skip",
        replace_minutes(NOON + timedelta(hours=1)),
    )


def replace_minutes(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0)


async def test_a_service_prints_its_schedules_when_it_starts() -> None:
    lines: list[str] = []
    async with serving(Clock(NOON)) as (_, engine):
        scheduler = Scheduler(PipelineOperations("p.yaml", RunLog()), engine, lines.append)
        scheduler.stop()
        await scheduler.run()
    assert lines == ["hourly: scheduled: 0 * * * * UTC, next 2026-01-01 13:00 UTC"]


@pytest.mark.slow
async def test_a_tick_that_cannot_start_is_tried_again(folder: Path) -> None:
    clock, lines = Clock(NOON), list[str]()
    async with serving(clock) as (scheduler, _):
        scheduler._say = lines.append
        clock.moment += timedelta(hours=1)
        (folder / "p.yaml").write_text("pipelines: [")
        for _ in range(3):
            await scheduler.start_due()
        assert len(lines) == 1
        assert scheduler.views()[0].note
        assert scheduler._pause() == RETRY_AFTER
        write_file()
        await scheduler.start_due()
        assert not scheduler.views()[0].note
    async with Engine(state_dir=".odw", clock=clock) as engine:
        assert await runs_of(engine) == names(13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "said", "expected"),
    [
        ("", "removed from", names(13)),
        (
            'schedule: "30 * * * *"',
            "changed in",
            [f"hourly-tick-20260101T{one}00Z" for one in (1300, 1330, 1430)],
        ),
    ],
)
async def test_a_changed_file_changes_the_schedule(
    folder: Path, schedule: str, said: str, expected: list[str]
) -> None:
    write_file("allow")
    changed = (folder / "p.yaml").read_text().replace('schedule: "0 * * * *"', schedule)
    clock, lines = Clock(NOON), list[str]()
    async with serving(clock) as (scheduler, _):
        scheduler._say = lines.append
        for minutes in (60, 5, 55, 35):
            clock.moment += timedelta(minutes=minutes)
            await scheduler._host.follow_file()
            await scheduler.start_due()
            (folder / "p.yaml").write_text(changed)
    assert lines == [f"hourly: its schedule was {said} the file"]
    async with Engine(state_dir=".odw", clock=clock) as engine:
        assert await runs_of(engine) == expected


async def test_a_changed_file_is_known_once_it_is_valid(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = PipelineOperations("p.yaml", RunLog())
    text = (folder / "p.yaml").read_text()
    for changed in ("pipelines: [", text.replace("hourly:", "daily:\n    params: {n: 1}")):
        assert host.parameters("extract-daily") is None
        (folder / "p.yaml").write_text(changed)
        await host.follow_file()
    (message,) = caplog.messages
    assert "until the file is valid" in message
    assert "p.yaml:1:13" in message
    assert list(host.parameters("extract-daily") or ()) == ["n"]
    assert host.parameters("extract-hourly") is None


@pytest.mark.slow
async def test_overlapping_ticks_resume_at_the_one_that_failed(folder: Path) -> None:
    write_file("allow")
    clock = Clock(NOON)
    async with serving(clock) as (scheduler, _):
        (folder / "p.yaml").write_text("pipelines: [")
        clock.moment += timedelta(hours=1)
        await scheduler.start_due()
        clock.moment += timedelta(hours=1)
        write_file("allow")
        await scheduler.start_due()
    async with Engine(state_dir=".odw", clock=clock) as engine:
        assert await runs_of(engine) == names(13, 14)


@pytest.mark.slow
async def test_a_tick_that_its_service_would_lose_fields_of_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def provide(*arguments: object) -> None:
        raise ServiceError("would drop Visit.room")

    clock = Clock(NOON)
    async with serving(clock) as (scheduler, engine):
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "provide", provide)
            clock.moment = NOON + timedelta(hours=1)
            await scheduler.start_due()
        assert scheduler.views()[0].note == "would drop Visit.room"
        assert await runs_of(engine) == []
        await scheduler.start_due()
    async with Engine(state_dir=".odw", clock=clock) as engine:
        assert await runs_of(engine) == names(13)
