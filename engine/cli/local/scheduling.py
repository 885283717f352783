"""Run the pipelines of a file by the clock, and go on with runs that a kill has cut off.

The state store is all the memory there is. The run of a tick is named after it, and a store takes a name
once: so no tick has two runs, however often the service is killed, and however many share the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from engine.cli.local.hosting import SERVED, PipelineHost
from engine.cli.local.ticks import name_of, tick_of, ticks_after
from engine.errors import EngineError, RunNotFoundError
from engine.execution.engine import Engine
from engine.execution.lease import living
from engine.execution.session import Session, new_group
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.service.operations import ScheduleView
from engine.state.protocol import RunRecord, RunStatus

if TYPE_CHECKING:
    from engine.config.model import Settings

__all__ = ["Scheduler"]

MAX_SLEEP = 20.0
"""Seconds between two looks at the clock, which somebody may set."""
MAX_AT_ONCE = 10
"""Missed ticks that are caught up with where runs may overlap."""


@dataclass(slots=True)
class _Scheduled:
    """A pipeline by the clock. `since`: ticks up to here have been dealt with."""

    pipeline: str
    settings: Settings
    since: datetime
    last_at: datetime | None = None
    last_run: str = ""
    note: str = ""

    @property
    def policy(self) -> str:
        """What a tick does while a run is under way: skip unless the file says otherwise."""
        return self.settings.if_running if self.settings.if_running in ("wait", "allow") else "skip"

    def next_at(self) -> datetime | None:
        return next(ticks_after(self.settings.schedule, self.settings.time_zone, self.since), None)


class Scheduler:
    """Starts the runs of ticks. `say` is told what is caught up with, resumed, or cannot be started."""

    def __init__(self, host: PipelineHost, engine: Engine, say: Callable[[str], None]) -> None:
        self._host, self._engine, self._say = host, engine, say
        self._is_stopping = anyio.Event()
        now = engine.clock.now()
        self._entries = [
            _Scheduled(name, plan.settings, now)
            for name, plan in host.plans.items()
            if plan.settings.schedule
        ]

    def stop(self) -> None:
        """Start no more runs."""
        self._is_stopping.set()

    def views(self) -> list[ScheduleView]:
        """What the operator's page shows."""
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
        await self.look_back()
        while not self._is_stopping.is_set():
            await self.start_due()
            now = self._engine.clock.now()
            upcoming = [tick for entry in self._entries if (tick := entry.next_at()) is not None]
            seconds = min([MAX_SLEEP, *((tick - now).total_seconds() for tick in upcoming)])
            with anyio.move_on_after(max(seconds, 0.05)):
                await self._is_stopping.wait()

    async def resume_killed(self) -> None:
        """Go on with the runs that an earlier service has left running. Raises StateError."""
        store, clock = self._engine.store, self._engine.clock
        for record in await store.list_runs():
            is_ours = record.group_id.startswith(SERVED) and record.status is RunStatus.RUNNING
            if not is_ours or await living(store, clock, record.run_id) is not None:
                continue
            try:
                plans = await anyio.to_thread.run_sync(
                    self._host.compiled_with, record.pipeline, dict(record.params)
                )
            except EngineError as error:
                self._say(f"{record.run_id} cannot go on: {without_credentials(str(error))}")
                continue
            self._say(f"{record.pipeline}: resuming run {record.run_id}, which was killed")
            self._host.begin(record.pipeline, self._session(plans, record.pipeline, resume=record))

    async def start_due(self) -> None:
        """Start the runs whose ticks have come since the last look."""
        now = self._engine.clock.now()
        for entry in self._entries:
            await self._start_due(entry, now)

    async def look_back(self) -> None:
        """Begin where the last run of each schedule left off, as far as its window reaches."""
        for entry in self._entries:
            if not entry.settings.catch_up:
                continue
            records = await self._engine.store.list_runs(pipeline=entry.pipeline)
            ticked = [(tick, one) for one in records if (tick := tick_of(entry.pipeline, one.run_id))]
            if not ticked:
                continue  # what was never run has missed nothing
            tick, record = max(ticked, key=lambda one: one[0])
            entry.last_at, entry.last_run = tick, record.run_id
            window = entry.since - timedelta(seconds=entry.settings.catch_up)
            entry.since = min(entry.since, max(tick, window, self._busy_until(entry, record)))

    @staticmethod
    def _busy_until(entry: _Scheduled, record: RunRecord) -> datetime:
        """Ticks before this were skipped, because the run was under way."""
        if entry.policy != "skip" or not record.ended_at:
            return datetime.fromisoformat(record.started_at)
        return datetime.fromisoformat(record.ended_at)

    async def _start_due(self, entry: _Scheduled, now: datetime) -> None:
        """Start what is due: the latest tick, or where runs may overlap, every one."""
        due_all = takewhile(
            lambda tick: tick <= now,
            ticks_after(entry.settings.schedule, entry.settings.time_zone, entry.since),
        )
        due = list(islice(due_all, 100_000))
        if not due:
            return
        entry.since = due[-1]
        for tick in due[-MAX_AT_ONCE:] if entry.policy == "allow" else due[-1:]:
            await self._start(entry, tick)

    async def _start(self, entry: _Scheduled, tick: datetime) -> None:
        run_id = name_of(entry.pipeline, tick)
        try:
            await self._engine.store.get_run(run_id)
            return  # by an earlier life of this service, or by another one
        except RunNotFoundError:
            pass
        except EngineError as error:
            self._fail(entry, error)
            return
        try:
            plans = await anyio.to_thread.run_sync(self._host.compiled_with, entry.pipeline, {})
        except EngineError as error:
            self._fail(entry, error)
            return
        plan = plans[entry.pipeline]
        plans[entry.pipeline] = replace(plan, settings=replace(plan.settings, if_running=entry.policy))
        entry.last_at, entry.last_run, entry.note = tick, run_id, ""
        self._host.begin(entry.pipeline, self._session(plans, entry.pipeline, run_id=run_id))

    def _fail(self, entry: _Scheduled, error: EngineError) -> None:
        entry.note = without_credentials(str(error))
        self._say(f"{entry.pipeline} could not be started by its schedule: {entry.note}")

    def _session(
        self, plans: Mapping[str, Plan], pipeline: str, *, run_id: str = "", resume: RunRecord | None = None
    ) -> Session:
        group = resume.group_id if resume is not None else f"{SERVED}{new_group(self._engine)}"
        return Session(
            self._engine,
            plans,
            [pipeline],
            {pipeline: resume} if resume is not None else None,
            group_id=group,
            run_ids={pipeline: run_id} if run_id else None,
        )
