"""Several runs together: start, retry, follow, drain and cancel them.

Implements a pipeline's `retries`, `on_complete`, `on_failure` and `on_cancel`, for the command line and for
`engine.run`. Prints nothing and installs no signal handlers.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from engine.config.model import Notify
from engine.errors import (
    EngineError,
    LeaseHeldError,
    LeaseLostError,
    RunExistsError,
    RunOverlapError,
    StateError,
)
from engine.execution.engine import Engine
from engine.execution.failure_types import report_failure
from engine.execution.notifying import pending_results, post_pending, tell
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.flow.stats import RunSnapshot
from engine.plan.claims import check_together
from engine.plan.identity import FOLLOWERS
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.state.records import Follower, Notification, RunRecord, RunStatus

FIRST_BACKOFF = 1.0
MAX_BACKOFF = 60.0
POST_LIMIT = 5.0
"""Seconds that a receiver of notifications has once the session drains: a sixth of the usual grace period."""


def starting(plans: Mapping[str, Plan], only: Collection[str] = ()) -> list[str]:
    """Return the pipelines to start: the requested ones, or all that follow no other."""
    if only:
        return [name for name in plans if name in only]
    led_to = {other for name, plan in plans.items() for other in plan.settings.followers if other != name}
    return [name for name in plans if name not in led_to] or list(plans)


@dataclass(slots=True)
class Entry:
    """A pipeline of the session, with its run once started and its report once ended.

    `trouble`: why an earlier attempt in this session failed. `ran`: the report is that of an attempt, not of
    one that could not begin or end. `follows`: the stored follower that its run replaces.
    """

    plan: Plan
    resume: RunRecord | None = None
    run: Run | None = None
    report: RunReport | None = None
    trouble: str = ""
    ran: bool = False
    follows: Follower | None = None

    @property
    def name(self) -> str:
        return self.plan.pipeline

    def snapshot(self) -> RunSnapshot | None:
        """Return the state of its run, or None before it has one."""
        return self.run.snapshot() if self.run is not None else None


class Session:
    """Runs pipelines concurrently in one engine.

    Args:
        plans: all plans that may be run, by pipeline. Other pipelines never follow a run.
        first: pipelines to start at once; the others start when a pipeline that names them ends.
        resumes: runs to continue instead of starting new ones, by pipeline.
        begun: pipelines that already have a run in this group; `on_complete` does not start them again.
        group_id: ties the runs together; by default that of `resumes`, or a new one.
        raising: if a run cannot begin, or its end cannot be stored, `execute` raises the error and cancels
            the others; otherwise the error becomes that run's report.
        verify: verify the counts of each run when it has ended.
        run_ids: ids of new runs, by pipeline; a run whose id exists already fails.
        posts_pending: also post the results that earlier processes left (see `notify`).
        late: of the pipelines in `first`, those that follow a run of an earlier process.
    """

    def __init__(
        self,
        engine: Engine,
        plans: Mapping[str, Plan],
        first: Sequence[str],
        resumes: Mapping[str, RunRecord] | None = None,
        *,
        begun: Collection[str] = (),
        group_id: str = "",
        raising: bool = False,
        verify: bool = False,
        run_ids: Mapping[str, str] | None = None,
        posts_pending: bool = False,
        late: Collection[Follower] = (),
    ) -> None:
        self._run_ids = run_ids or {}
        self._engine = engine
        self._verify = verify
        self._posts_pending = posts_pending
        self._raising = raising
        self._trouble: EngineError | None = None
        self._plans = plans
        self._first = first
        self._resumes = dict(resumes or {})
        self._draining = anyio.Event()
        self._starting = anyio.CancelScope()
        self._cancelled = False
        self._posts: list[anyio.CancelScope] = []
        self._begun, self._late = frozenset(begun), {one.pipeline: one for one in late}
        self.entries: dict[str, Entry] = {}
        """Started pipelines, in order."""
        self.put_off: dict[str, str] = {}
        """Pipelines not started because of a drain, each with the pipeline that it follows."""
        groups = [group_id, *(record.group_id for record in self._resumes.values()), new_group(engine)]
        self.group_id = next(filter(None, groups))

    @property
    def reports(self) -> dict[str, RunReport]:
        """Reports of ended runs, in start order."""
        return {name: entry.report for name, entry in self.entries.items() if entry.report is not None}

    @property
    def draining(self) -> bool:
        """Whether `drain` or `cancel` was called."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Drain every run: deliver what it has read, and end."""
        self._draining.set()
        self._starting.cancel()
        for post in self._posts:
            post.deadline = min(post.deadline, anyio.current_time() + POST_LIMIT)
        for run in self._active():
            run.drain()

    def cancel(self) -> None:
        """End every run at once."""
        self._cancelled = True
        self.drain()
        for run in self._active():
            run.cancel()
        for post in self._posts:
            post.cancel()

    async def execute(self) -> None:
        """Run all pipelines; the results are in `reports`. After an early drain nothing starts.

        Raises:
            ConfigError: two pipelines that start at once cannot run concurrently.
            ServiceError: an embedded service cannot be started.
            EngineError: see `raising`.
        """
        for name in self._first:
            self.entries[name] = Entry(
                self._plans[name], self._resumes.get(name), follows=self._late.get(name)
            )
        check_together([self._plans[name] for name in self._first])
        services = {service for name in self._first for service in self._plans[name].sandbox_services}
        with self._starting:
            # all together, so that one child process serves all runs
            declared = [self._plans[name].warehouse for name in self._first]
            await self._engine.provide(services, next(filter(None, declared), None))
        pending: list[Notification] = []
        if self._posts_pending:
            store, clock = self._engine.store, self._engine.clock
            with suppress(StateError):  # the runs report it
                pending = await pending_results(store, clock, self._engine.observer)
        if self.draining:
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._post_pending, pending)
            for entry in list(self.entries.values()):
                group.start_soon(self._pipeline, entry, group)
        if self._trouble is not None:
            raise self._trouble

    async def _pipeline(self, entry: Entry, group: TaskGroup) -> None:
        await self._attempts(entry)
        if self._trouble is not None:
            group.cancel_scope.cancel()
        if entry.report is None or isinstance(entry.report.failure, LeaseHeldError | LeaseLostError):
            return  # the process that works on the run reports its result and starts what follows
        if (notify := entry.plan.settings.notify) is not None:
            # concurrently, since cleanup does not wait for a slow receiver
            group.start_soon(self._post, notify, entry.report, entry.ran)
        is_stored = entry.ran and entry.report.stored
        for name in self._following(entry, entry.report.status):
            # `on_cancel` pipelines clean up after a drained run, so they start in spite of the drain
            if self.draining and entry.report.status is not RunStatus.INTERRUPTED:
                self.put_off.setdefault(name, entry.name)
                continue
            follows = Follower(self.group_id, name, entry.report.run_id)
            self.entries[name] = Entry(self._plans[name], follows=follows if is_stored else None)
            if not is_stored:  # but an earlier attempt may have stored it
                await self._forget(follows)
            group.start_soon(self._pipeline, self.entries[name], group)

    def _following(self, entry: Entry, status: RunStatus) -> list[str]:
        """Return the pipelines that start after a run that ended so."""
        settings, names = entry.plan.settings, list[str]()
        if status is RunStatus.COMPLETED:
            names = [name for name in settings.on_complete if name not in self._begun]
        elif status is RunStatus.INTERRUPTED and not self._cancelled:
            names = list(settings.on_cancel)
        elif status in (RunStatus.FAILED, RunStatus.OUTAGE) and not self._cancelled:
            names = list(settings.on_failure)
        return [name for name in names if name in self._plans and name not in self.entries]

    async def _post(self, notify: Notify, report: RunReport, ran: bool) -> None:
        """Post a result; that of an attempt stays in the store until it is accepted."""
        engine, own = self._engine, "" if ran else new_group(self._engine)
        with self._posting():
            if await tell(notify, report, engine.observer, id_=own) and ran:
                with anyio.CancelScope(shield=True), suppress(StateError):
                    await engine.store.delete_notification(report.run_id, report.attempt)

    async def _post_pending(self, pending: Sequence[Notification]) -> None:
        with self._posting(), suppress(StateError):
            await post_pending(pending, self._engine.store, self._plans, self._engine.observer)

    @contextmanager
    def _posting(self) -> Iterator[None]:
        """Bound what posts in the block to `POST_LIMIT` seconds once the session drains."""
        with anyio.CancelScope() as scope:
            if self.draining:
                scope.deadline = anyio.current_time() + POST_LIMIT
            self._posts.append(scope)
            yield

    async def _attempts(self, entry: Entry) -> None:
        retries, before = entry.plan.settings.retries, ""
        for attempt in range(retries + 1):
            report = await self._once(entry)
            if before and report.error and report.error != before:
                # the retry's error may only say that a retry is impossible
                report = replace(report, error=f"{report.error}; attempt 1 failed: {before}")
            if attempt == retries or self.draining or not _worth_another(report):
                break
            before = before or report.error
            entry.trouble = f"attempt {attempt + 1} of {retries + 1} failed: {report.error}"
            with anyio.move_on_after(min(FIRST_BACKOFF * 2**attempt, MAX_BACKOFF)):
                await self._draining.wait()
            if self._draining.is_set():
                break
            try:
                # only the last attempt's result is posted
                await self._engine.store.delete_notification(report.run_id, report.attempt)
                entry.resume = await self._engine.store.get_run(report.run_id)
            except EngineError as error:
                report = self._failed(entry, report.run_id, error)
                break
        entry.report = report

    async def _once(self, entry: Entry) -> RunReport:
        """Make one attempt; errors before or after the run itself become a report too."""
        run_id = entry.resume.run_id if entry.resume else ""
        asked_before, entry.ran = self.draining, False
        try:
            async with self._engine.start(
                self._with_followers(entry.plan),
                resume=entry.resume,
                group_id=self.group_id,
                run_id=self._run_ids.get(entry.name, ""),
                verify=self._verify,
                given_up=self._draining.is_set,
                follows=entry.follows,
                following=partial(self._following, entry),
            ) as run:
                run_id, entry.run, entry.follows = run.run_id, run, None
                if self._cancelled:
                    run.cancel()
                elif self.draining and not asked_before:  # while the run was being stored
                    run.drain()
                report = await run.wait()
                entry.ran = True
                return report
        except RunOverlapError as error:
            if not error.given_up:  # a later process starts it
                await self._forget(entry.follows)
            if not (error.skipped or error.given_up):
                return self._failed(entry, run_id, error)
            status = RunStatus.SKIPPED if error.skipped else RunStatus.INTERRUPTED
            return RunReport(entry.name, run_id, status, error=str(error))
        except RunExistsError as error:
            if entry.follows is None:
                return self._failed(entry, run_id, error)
            return RunReport(entry.name, run_id, RunStatus.SKIPPED, error=str(error))
        except EngineError as error:
            await self._forget(entry.follows)
            return self._failed(entry, run_id, error)

    async def _forget(self, follower: Follower | None) -> None:
        """Delete a follower, so that no later process starts it too."""
        if follower is not None:
            with suppress(StateError):
                await self._engine.store.delete_follower(follower)

    def _with_followers(self, plan: Plan) -> Plan:
        """Return the plan with the parameters of its followers, which a resume uses to start them."""
        names, doc = [plan.pipeline], plan.operational_doc
        for name in names:
            settings = self._plans[name].settings if name in self._plans else plan.settings
            following = settings.followers
            names += [one for one in following if one in self._plans and one not in names]
        params = {name: dict(self._plans[name].params) for name in names[1:] if self._plans[name].params}
        if not params or not isinstance(doc, dict):
            return plan
        return replace(plan, operational_doc={**doc, FOLLOWERS: params})

    def _failed(self, entry: Entry, run_id: str, error: EngineError) -> RunReport:
        entry.ran = False
        if self._raising and self._trouble is None:
            self._trouble = error
        text = without_credentials(str(error))
        return RunReport(entry.name, run_id, RunStatus.FAILED, error=text, failure=error)

    def _active(self) -> list[Run]:
        return [one.run for one in self.entries.values() if one.run is not None and one.report is None]


def _worth_another(report: RunReport) -> bool:
    """Return whether a resume may succeed without any change."""
    if report.status not in (RunStatus.FAILED, RunStatus.OUTAGE) or not report.run_id:
        return False
    failure = report_failure(report)
    # another process may have taken the run over; do not compete with it
    return failure is not None and failure.retryable and not isinstance(report.failure, StateError)


def new_group(engine: Engine) -> str:
    """Return a name for the runs of one invocation; names sort by time."""
    return f"{engine.clock.now():%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
