"""Run the pipelines of a file on their schedules, and resume runs that were killed.

The state store is the only memory. The run of a tick is named after it, and a store accepts a name only once,
so no tick runs twice, even if the service is killed or several services share the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile

import anyio
import anyio.to_thread

from engine.cli.local.hosting import SERVED, PipelineHost
from engine.cli.local.resume import end_of, not_begun, params_from_before
from engine.cli.local.ticks import name_of, tick_of, ticks_after
from engine.config.model import Settings
from engine.errors import EngineError, RunNotFoundError
from engine.execution.engine import Engine
from engine.execution.lease import living
from engine.execution.session import Session, new_group
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.service.operations import ScheduleView
from engine.state.records import Follower, RunRecord, RunStatus

MAX_SLEEP = 20.0
"""Longest pause between two checks of the clock, in seconds: the clock may be set."""
RETRY_AFTER = 5.0
"""Seconds before a tick that could not be started is retried."""
MAX_AT_ONCE = 10
"""Number of missed ticks that are started late where runs may overlap."""


_LOOKS = (timedelta(days=1), timedelta(days=30))
"""How far back ticks are searched, shortest first, so that frequent schedules stay cheap."""


@dataclass(slots=True)
class _Scheduled:
    """A scheduled pipeline.

    Ticks up to `since` are started or skipped. `note` is the reason why the next one could not be started; it
    is retried until it starts or a newer one replaces it.
    """

    pipeline: str
    settings: Settings
    since: datetime
    last_at: datetime | None = None
    last_run: str = ""
    note: str = ""

    @property
    def policy(self) -> str:
        """What a tick does while a run is in progress (default: skip)."""
        return self.settings.if_running if self.settings.if_running in ("wait", "allow") else "skip"

    def next_at(self) -> datetime | None:
        return next(ticks_after(self.settings.schedule, self.settings.time_zone, self.since), None)

    def line(self) -> str:
        times, tick = f"{self.settings.schedule} {self.settings.time_zone}", self.next_at()
        state = f"next {tick:%Y-%m-%d %H:%M} UTC" if tick is not None else "no further runs"
        return f"{self.pipeline}: scheduled: {times}, {state}"


class Scheduler:
    """Starts the runs of ticks.

    `say` receives a line for each schedule, and for each run that is resumed or cannot start.
    """

    def __init__(self, host: PipelineHost, engine: Engine, say: Callable[[str], None]) -> None:
        self._host, self._engine, self._say = host, engine, say
        self._is_stopping = anyio.Event()
        now = engine.clock.now()
        self._entries = [_Scheduled(name, settings, now) for name, settings in host.scheduled().items()]

    def stop(self) -> None:
        """Start no further runs."""
        self._is_stopping.set()

    def views(self) -> list[ScheduleView]:
        """Return the schedules as the operator's page shows them."""
        return [
            ScheduleView(
                one.pipeline,
                one.settings.schedule,
                one.settings.time_zone,
                one.policy,
                one.next_at(),
                one.last_at,
                one.last_run,
                one.note,
            )
            for one in self._entries
        ]

    async def run(self) -> None:
        """Start runs when they are due, until it is stopped."""
        for entry in self._entries:
            self._say(entry.line())
        await self.look_back()
        while not self._is_stopping.is_set():
            await self.start_due()
            with anyio.move_on_after(self._pause()):
                await self._is_stopping.wait()

    def _pause(self) -> float:
        """Seconds until something may be due."""
        now = self._engine.clock.now()
        pauses = [MAX_SLEEP]
        for entry in self._entries:
            if entry.note:
                pauses.append(RETRY_AFTER)
            elif (tick := entry.next_at()) is not None:
                pauses.append((tick - now).total_seconds())
        return max(min(pauses), 0.05)

    async def resume_killed(self) -> None:
        """Resume runs that an earlier service left running, and start what has to follow others.

        Raises:
            StateError: the store cannot be used.
        """
        store, clock = self._engine.store, self._engine.clock
        killed, followers = list[RunRecord](), await store.followers()
        for record in await store.list_runs(statuses=[RunStatus.RUNNING]):
            if await living(store, clock, record.run_id) is None:
                killed.append(record)
        groups = [one.group_id for one in killed] + [one.group_id for one in followers]
        for group in dict.fromkeys(groups):
            # a run may be deleted meanwhile
            if group.startswith(SERVED) and (runs := await store.list_runs(group_id=group)):
                resumes = {one.pipeline: one for one in killed if one.group_id == group}
                late = await not_begun(store, self._host.config, group, resumes)
                await self._continue(runs, resumes, late)

    async def _continue(
        self, runs: Sequence[RunRecord], resumes: Mapping[str, RunRecord], late: Sequence[Follower]
    ) -> None:
        """Begin one session for what is left of an earlier one, so that nothing in it starts twice."""
        lines = {name: f"resuming run {one.run_id}, which was killed" for name, one in resumes.items()}
        lines |= {one.pipeline: f"starting now because {end_of(one, runs)}" for one in late}
        params, plans, first = params_from_before(self._host.config, runs, resumes), dict[str, Plan](), []
        for name, line in lines.items():
            try:
                plans |= await anyio.to_thread.run_sync(self._host.compiled_with, name, params)
            except EngineError as error:
                self._say(f"{name} cannot continue ({line}): {without_credentials(str(error))}")
                continue
            self._say(f"{name}: {line}")
            first.append(name)
        if first:
            session = Session(
                self._engine,
                plans,
                first,
                {name: one for name, one in resumes.items() if name in first},
                begun=[run.pipeline for run in runs],
                group_id=runs[0].group_id,
                late=[one for one in late if one.pipeline in first],
            )
            self._host.begin(first[0], session)

    async def start_due(self) -> None:
        """Start the runs that have become due since the last check."""
        now = self._engine.clock.now()
        self._follow_file(now)
        for entry in self._entries:
            await self._start_due(entry, now)

    def _follow_file(self, now: datetime) -> None:
        """Adopt the schedules of a file that was changed; a new one begins now."""
        schedules, kept = self._host.scheduled(), []
        for entry in self._entries:
            after = schedules.pop(entry.pipeline, None)
            if after is None:
                self._say(f"{entry.pipeline}: its schedule was removed from the file")
                continue
            if _times_of(after) != _times_of(entry.settings):
                self._say(f"{entry.pipeline}: its schedule was changed in the file")
                entry.since, entry.note = now, ""
            entry.settings = after
            kept.append(entry)
        for name, settings in schedules.items():
            self._say(f"{name}: a schedule was added to the file")
            kept.append(_Scheduled(name, settings, now))
        self._entries = kept

    async def look_back(self) -> None:
        """Continue after the last run of each schedule, within its catch-up window."""
        for entry in self._entries:
            if not entry.settings.catch_up:
                continue
            records = await self._engine.store.list_runs(pipeline=entry.pipeline)
            ticked = [(tick, one) for one in records if (tick := tick_of(entry.pipeline, one.run_id))]
            if not ticked:
                continue  # a pipeline that never ran has missed nothing
            tick, record = max(ticked, key=lambda one: one[0])
            entry.last_at, entry.last_run = tick, record.run_id
            window = entry.since - timedelta(seconds=entry.settings.catch_up)
            skipped = record.ended or record.began  # while it was in progress
            done = max(tick, skipped) if entry.policy == "skip" else tick
            entry.since = min(entry.since, max(done, window))

    async def _start_due(self, entry: _Scheduled, now: datetime) -> None:
        """Start the latest due tick, or the latest `MAX_AT_ONCE` where runs may overlap."""
        entry.since = min(entry.since, now)  # the clock was set back; no tick is started twice
        due = _latest_due(entry, now)
        if not due:
            return
        chosen = due[-MAX_AT_ONCE:] if entry.policy == "allow" else due[-1:]
        if left_out := due[: -len(chosen)]:
            entry.since = left_out[-1]
        for tick in chosen:
            try:
                await self._start(entry, tick)
            except EngineError as error:
                self._fail(entry, error)
                return
            entry.since, entry.note = tick, ""

    async def _start(self, entry: _Scheduled, tick: datetime) -> None:
        """Start the run of a tick unless this service or another has done so. Raises EngineError."""
        run_id = name_of(entry.pipeline, tick)
        with suppress(RunNotFoundError):
            await self._engine.store.get_run(run_id)
            return
        plans = await anyio.to_thread.run_sync(self._host.compiled_with, entry.pipeline, {})
        plan = plans[entry.pipeline]
        await self._engine.provide(plan.sandbox_services, plan.warehouse)
        plans[entry.pipeline] = replace(plan, settings=replace(plan.settings, if_running=entry.policy))
        entry.last_at, entry.last_run = tick, run_id
        self._host.begin(entry.pipeline, self._session(plans, entry.pipeline, run_id))

    def _fail(self, entry: _Scheduled, error: EngineError) -> None:
        """Report once why a schedule is delayed."""
        reason = without_credentials(str(error))
        if reason != entry.note:
            self._say(f"{entry.pipeline} could not be started by its schedule and is tried again: {reason}")
        entry.note = reason

    def _session(self, plans: Mapping[str, Plan], pipeline: str, run_id: str) -> Session:
        group = f"{SERVED}{new_group(self._engine)}"
        return Session(self._engine, plans, [pipeline], group_id=group, run_ids={pipeline: run_id})


def _times_of(settings: Settings) -> tuple[str, str]:
    return settings.schedule, settings.time_zone


def _latest_due(entry: _Scheduled, now: datetime) -> list[datetime]:
    """Return the latest due ticks, oldest first: all of them, or more than are ever started at once."""
    due: list[datetime] = []
    for back in (*_LOOKS, now - entry.since):
        start = max(entry.since, now - back)
        ticks = ticks_after(entry.settings.schedule, entry.settings.time_zone, start)
        due = list(takewhile(lambda tick: tick <= now, ticks))
        if start == entry.since or len(due) > MAX_AT_ONCE:
            break
    return due
