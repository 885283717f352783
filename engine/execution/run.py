"""A run in progress."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import anyio

from engine.contract.acks import Tally
from engine.contract.chunk import Chunk
from engine.contract.clock import timestamp
from engine.contract.types import JsonValue
from engine.contract.verification import Check
from engine.errors import EngineError, LeaseLostError, OutageError, StateError
from engine.execution.events import Observer, RunEvent, Speaker, speaking
from engine.execution.notifying import stored_result
from engine.execution.report import RunReport, stored_report
from engine.execution.resources import RunIdentity, RunnerResources
from engine.execution.runner import Runner
from engine.execution.verification import not_asked
from engine.execution.verification import verify as compare
from engine.flow.stats import NodeSnapshot, RunSnapshot
from engine.flow.tapping import NodeTaps
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.state.records import DeadLetterFilter, Follower, Notification, RunRecord, RunStatus

Following: TypeAlias = Callable[[RunStatus], Collection[str]]


def nothing_follows(status: RunStatus) -> Collection[str]:
    """Return the pipelines that follow a run which nothing follows."""
    return ()


class Run:
    """A run in progress: watch it, drain it, cancel it, wait for it."""

    def __init__(
        self,
        plan: Plan,
        record: RunRecord,
        resources: RunnerResources,
        observer: Observer,
        *,
        resumed: bool,
        epoch: int = 0,
        chunk: Chunk | None = None,
        verify: bool = False,
        following: Following = nothing_follows,
    ) -> None:
        self.plan = plan
        self.record = record
        self._resources = resources
        self._observer = observer
        self._identity = RunIdentity(
            run_id=record.run_id,
            seed=record.seed,
            started_at=record.began,
            resumed=resumed,
            epoch=epoch,
            attempt=record.attempt,
            chunk=chunk,
        )
        self._verify, self._following = verify, following
        self._runner = Runner(plan, self._identity, resources, count=verify)
        self._begun = False
        self._abandoned = False
        self._ended = anyio.Event()

    @property
    def run_id(self) -> str:
        """The run's id in the state store."""
        return self.record.run_id

    def snapshot(self) -> RunSnapshot:
        """Return the current state of the run."""
        return self._runner.snapshot()

    def taps_of(self, node: str) -> NodeTaps:
        """Return the taps of a node; raises KeyError for an unknown node."""
        return self._runner.taps_of(node)

    def redacted(self, node: str, record: JsonValue) -> JsonValue:
        """Return a record that has left a node, as JSON, without fields that the plan hides."""
        return self._runner.redacted(node, record)

    async def until_ended(self) -> None:
        """Wait until the run has ended."""
        await self._ended.wait()

    def drain(self) -> None:
        """Stop reading, deliver and commit what is in flight, then end; the run can be resumed."""
        self._runner.drain()

    def cancel(self) -> None:
        """End at once; a resume re-reads what was not committed."""
        self._runner.cancel()

    def abort(self, error: EngineError) -> None:
        """Fail the run at once with this error."""
        self._runner.abort(error)

    def abandon(self) -> None:
        """Give up a run that does not stop, so that other processes can take it over."""
        self._abandoned = True

    async def list_splits(self, node: str, *, on_page: Callable[[int], None] = lambda listed: None) -> int:
        """Store the splits of a source page by page, for runs in chunks.

        Args:
            on_page: called with the number listed so far.

        Returns:
            The number of splits.
        """
        return await self._runner.list_splits(node, on_page)

    async def wait(self) -> RunReport:
        """Run until the end and return the report, which includes errors of the run; call it once.

        Raises:
            StateError: the end of the run could not be stored.
        """
        self._begun = True
        try:
            with speaking(Speaker(self._observer, self.plan.pipeline, self.run_id)):
                return await self._run()
        finally:
            self._ended.set()

    async def leave(self, *, at_once: bool = False) -> None:
        """Drain or cancel a run that another task waits for, and wait until it has ended.

        A cancellation meanwhile also cancels the run. A run that has not begun never begins.
        """
        if self._abandoned:
            return
        if not self._begun:
            self.cancel()
            return
        try:
            if not at_once and not self._ended.is_set():
                self.drain()
                await self._ended.wait()
        finally:
            if not self._ended.is_set():
                self.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()

    async def _run(self) -> RunReport:
        self._tell("started", "resumed" if self._identity.resumed else "started", "info")
        trace, ended = self._resources.trace, "cancelled"
        if trace is not None:
            trace.begin()
        try:
            report = await self._attempt()
            ended = str(report.status)
        finally:
            if trace is not None:
                trace.end(ended, {node.name: _numbers(node) for node in self._runner.snapshot().nodes})
        return report

    async def _attempt(self) -> RunReport:
        failure: EngineError | None = None
        try:
            await self._runner.execute()
            status = RunStatus.COMPLETED if self._runner.finished else RunStatus.INTERRUPTED
        except OutageError as error:
            status, failure = RunStatus.OUTAGE, error
        except EngineError as error:
            status, failure = RunStatus.FAILED, error
        except BaseException:
            # the process that has taken the run over stores its status
            with anyio.CancelScope(shield=True), suppress(LeaseLostError):
                await self._finish(RunStatus.INTERRUPTED, "cancelled from outside", nothing_follows)
            raise
        return await self._report(status, failure)

    async def _report(self, status: RunStatus, failure: EngineError | None) -> RunReport:
        error = without_credentials(str(failure)) if failure is not None else ""
        first, journal_usd = "", 0.0
        try:
            with anyio.CancelScope(shield=True):
                await self._finish(status, error, self._following)
            # for a chunk, this process knows everything: earlier progress and its own
            live = self._identity.chunk is not None
            tally = self._runner.ledger.live() if live else await self._runner.ledger.tally()
            where = DeadLetterFilter(run_id=self.run_id, status="open")
            dead = await self._resources.store.count_dead_letters(where)
            for letter in await self._resources.store.dead_letters(replace(where, limit=1)) if dead else ():
                first = f"at `{letter.node}`: {letter.error_type}: {letter.error_message}"
            journal_usd = 0.0 if live else await self._resources.store.journal_cost(self.run_id)
            stored = True
        except EngineError as problem:
            if failure is None:
                raise
            # the store failed, so only the counters of this process can be reported
            if isinstance(problem, LeaseLostError):
                failure, error = problem, str(problem)  # how the run ends is up to the other process
            else:
                failure.add_note(f"and the state store could not be read: {problem}")
            tally, dead, stored = self._runner.ledger.live(), self._runner.dead_letters, False
        snapshot = self._runner.snapshot()
        report = RunReport(
            pipeline=self.plan.pipeline,
            run_id=self.run_id,
            status=status,
            tally=tally,
            seconds=snapshot.elapsed,
            nodes=snapshot.nodes,
            forward=snapshot.forward,
            bottleneck=snapshot.bottleneck,
            error=error,
            failure=failure,
            dead_letters=dead,
            first_dead_letter=first,
            peak_bytes=self._resources.budget.peak,
            attempt=self.record.attempt,
            stored=stored,
            unsettled=self._runner.ledger.unsettled() if stored and not live else Tally(),
            journal_usd=journal_usd,
            output=self._runner.output(),
        )
        if self._verify:
            report = replace(report, checks=await self._checks(report))
        level = "info" if report.ok else ("warning" if status is RunStatus.INTERRUPTED else "error")
        self._tell("finished", str(status), level, read=tally.read, written=tally.written, dead=tally.dead)
        return report

    async def _checks(self, report: RunReport) -> list[Check]:
        """Return the comparisons; an unreadable store is a failed one."""
        runner = self._runner
        try:
            checks = await compare(
                self._resources.store,
                self.plan,
                report,
                settled=runner.settled,
                distinct_keys=runner.distinct_keys,
            )
        except StateError as problem:
            return [Check("figures in the ledger", note=str(problem), failed=True)]
        return [*checks, *(runner.counts or not_asked(self.plan))]

    async def _finish(self, status: RunStatus, error: str, following: Following) -> None:
        if self._identity.chunk is not None:
            return
        ended = timestamp(self._resources.clock.now())
        notify, notification = self.plan.settings.notify, None
        if notify is not None and status in notify.when:
            notification = await self._notification(status, error, ended)
        await self._resources.store.update_run(
            self.run_id,
            status=status,
            ended_at=ended,
            error=error[:2000],
            epoch=self._identity.epoch,
            notification=notification,
            # asked last: another run may have started one of them meanwhile
            followers=[Follower(self.record.group_id, name, self.run_id) for name in following(status)],
        )

    async def _notification(self, status: RunStatus, error: str, ended: str) -> Notification:
        """Return what is posted about this end, even by a later process if this one is killed before."""
        tally, seconds = await self._runner.ledger.tally(), self._runner.snapshot().elapsed
        store = self._resources.store
        return stored_result(await stored_report(store, self.record, status, error, tally, seconds), ended)

    def _tell(self, action: str, message: str, level: str, **numbers: int) -> None:
        name = f"run_{action}"
        if self._identity.chunk is not None:
            name, message = f"chunk_{action}", f"{self._identity.chunk.name} {message}"
        self._observer(RunEvent(name, message, level, self.plan.pipeline, self.run_id, numbers))


def _numbers(node: NodeSnapshot) -> dict[str, float]:
    names = ("records_in", "records_out", "batches", "dead", "dropped", "retries", "busy_seconds")
    return {name: getattr(node, name) for name in names}
