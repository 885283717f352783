"""Run one plan: open its components, run one task per segment, and keep the ledger.

run ──┬── source segment ──edge──▶ worker segment ──edge──▶ worker segment
      ├── ledger commits, every 100 ms
      └── dead-letter route, shared by all segments
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter

import anyio

from engine.contract.arguments import is_count
from engine.contract.background import background_tasks
from engine.contract.component import Kind, Source
from engine.contract.types import JsonValue, Record
from engine.contract.verification import Check
from engine.dead_letters.queue import DeadLetterRoute
from engine.errors import EngineError, NodeFailedError, PipelineTimeoutError, StateError
from engine.execution.components import Components
from engine.execution.late_deliveries import LateDeliveries
from engine.execution.ledger import Ledger
from engine.execution.listing import Listing
from engine.execution.node_events import NodeEvents
from engine.execution.resources import RunIdentity, RunnerResources
from engine.execution.verification import ask_sinks
from engine.fault_injection import reached
from engine.flow.errors import cause_of
from engine.flow.limits import unmet
from engine.flow.outlet import Wiring, wire
from engine.flow.reading import SourceTask
from engine.flow.segment import Segment
from engine.flow.segment_workers import run_workers
from engine.flow.stats import RunSnapshot
from engine.flow.stopping import Drain, Stop
from engine.flow.tapping import NodeTaps
from engine.plan.model import Plan

STOP_LIMIT = 120.0  # seconds; no supervisor waits in this case, and records in flight may have been paid for


class Runner:
    """One attempt of a run; call `execute` once.

    Args:
        count: let the sinks count the run's records at the end; `counts` has the results.

    Attributes:
        finished: everything was read and settled.
        settled: everything that was read is settled.

    Raises (from `execute`): `RunError` subclasses, `StateError`; a drained run returns normally with
    `finished` false.
    """

    def __init__(
        self, plan: Plan, identity: RunIdentity, resources: RunnerResources, *, count: bool = False
    ) -> None:
        self.plan = plan
        self.identity = identity
        self._resources = resources
        self._clock = resources.clock
        self._sources: list[SourceTask] = []
        self._scope = anyio.CancelScope()
        self._started = perf_counter()
        self._ended: float | None = None
        self._drain = Drain()
        self._stop = Stop(self._on_stop)
        self._reading = False
        self._matched: set[str] = set()
        self._trouble: EngineError | None = None
        self._late = LateDeliveries(resources.store, plan, identity.run_id)
        self.ledger = Ledger(
            resources.store,
            identity.run_id,
            identity.epoch,
            shared=identity.chunk is not None,
            before_commit=self._late.close,
        )
        self.finished = self.settled = False
        self.counts: list[Check] = []
        self._count = count
        self._components = Components(plan, identity, resources, lambda: self._drain.asked)
        self._listing = Listing(identity, self.ledger, resources.store, resources.clock)
        self._events = NodeEvents(plan.pipeline, identity.run_id, identity.chunk_name, resources.tell)
        self._route = DeadLetterRoute(
            run_id=identity.run_id,
            pipeline=plan.pipeline,
            store=resources.store,
            settings=plan.dead_letters,
            clock=self._clock,
            tally=self.ledger.live_of_run,
            own=self.ledger.live,
            epoch=identity.epoch,
            chunk=identity.chunk_name,
            makers=self._components.makers,
        )

    @property
    def dead_letters(self) -> int:
        """Number of dead letters of this attempt."""
        return self._route.count

    @property
    def distinct_keys(self) -> bool:
        """Return whether no key occurs twice in the run, according to its sources."""
        return self._components.distinct_keys

    def snapshot(self) -> RunSnapshot:
        """Return the current state of the run."""
        elapsed = (self._ended or perf_counter()) - self._started
        components, forward = self._components, self._components.forward_stats
        return RunSnapshot(
            run_id=self.identity.run_id,
            pipeline=self.plan.pipeline,
            elapsed=elapsed,
            tally=self.ledger.live(),
            bytes_in_flight=self._resources.budget.in_use,
            bytes_budget=self._resources.budget.capacity,
            nodes=[stats.snapshot(elapsed) for stats in components.stats()],
            draining=self._drain.asked,
            forward=forward.snapshot(elapsed) if forward is not None else None,
        )

    def taps_of(self, name: str) -> NodeTaps:
        """Return the taps of a node; raises KeyError for an unknown node."""
        return self._components.taps[name]

    def redacted(self, name: str, record: JsonValue) -> JsonValue:
        """Return a record that has left a node, without fields that any component of the run hides."""
        passed = self.plan.ancestors(name) | {name}
        for other, runtime in self._components.runtimes.items():
            record = runtime.component.redact(record, done=other in passed)
        return record

    def output(self) -> Mapping[str, Sequence[Record]]:
        """Return the records that sinks collected for the caller, by node."""
        return self._components.output()

    def drain(self) -> None:
        """Stop reading; deliver and commit what is in flight, or give it up after the drain limit.

        Records that wait for an outage to end are given up at once: they could not be delivered, and nothing
        is lost, since a resume reads them again.
        """
        self._begin_drain(self._resources.drain_limit)

    def _begin_drain(self, limit: float) -> None:
        self._drain.ask(limit)
        for source in self._sources:
            source.drain()
        reached("draining")

    def _on_stop(self, error: Exception) -> None:
        timed_out = isinstance(error, PipelineTimeoutError)
        self._begin_drain(self._resources.drain_limit if timed_out else STOP_LIMIT)

    def cancel(self) -> None:
        """Stop at once; a resume re-reads what is in flight."""
        self._drain.asked = True
        self._scope.cancel()

    def abort(self, error: EngineError) -> None:
        """Fail at once: `execute` raises the error."""
        self._trouble = error
        self.cancel()

    async def list_splits(self, name: str, on_page: Callable[[int], None]) -> int:
        """Store the splits of one source without reading any; return their number.

        Raises:
            OutageError: the source was unavailable for longer than `outage_limit`.
            RunError: it cannot be opened or listed.
        """
        async with AsyncExitStack() as stack:
            runtime = await self._components.enter(stack, self.plan.node(name))
            source = runtime.component
            assert isinstance(source, Source)
            return await self._listing.in_pages(source, runtime, on_page)

    async def execute(self) -> None:
        """Run until the end, or until drained or cancelled."""
        self._started = perf_counter()
        try:
            with self._scope:
                await self._within_timeout()
            if (error := self._trouble or self._stop.error) is not None:
                raise error
        except BaseExceptionGroup as group:
            await self._close_books(failed=True)
            cause = self._stop.error or cause_of(group)
            raise cause from cause.__cause__ or group
        except BaseException:
            await self._close_books(failed=True)
            raise
        await self._close_books()

    async def _within_timeout(self) -> None:
        async with background_tasks() as watch:
            watch.start_soon(self._bound_drain)
            watch.start_soon(self._bound_time)
            await self._execute()

    async def _bound_time(self) -> None:
        """Drain the run when the pipeline's `timeout` has passed."""
        timeout = self.plan.settings.timeout
        if timeout is not None:
            await anyio.sleep(timeout)
            self._stop.take(PipelineTimeoutError(f"{self.plan.pipeline!r} ran longer than {timeout:g} s"))

    async def _bound_drain(self) -> None:
        """After a drain request, end the run when its time is up or waiting is pointless."""
        await self._drain.over(lambda: self._reading and not self._components.in_outage)
        self.cancel()

    async def _close_books(self, *, failed: bool = False) -> None:
        """Commit settled records; an earlier error of the run takes precedence."""
        self._ended = perf_counter()
        self._events.end(self.snapshot().nodes)
        with anyio.CancelScope(shield=True):
            try:
                await self.ledger.close()
                await self._late.close()  # also of records that are delivered and not settled
            except StateError:
                if not failed:
                    raise
        reached("books_closed")

    async def _execute(self) -> None:
        async with AsyncExitStack() as stack:
            wiring = await self._open(stack)
            await self._prepare_sources(wiring)
            if self.plan.dead_letters.limited:
                # a short chunk may end before the first poll
                await self.ledger.refresh_other_workers()
            self._route.begin()
            self._reading = True
            await self._process(wiring)
            if self._stop.error is not None:
                return  # a resume re-reads records that the failed node left unsettled
            await self._conclude()

    async def _open(self, stack: AsyncExitStack) -> Wiring:
        """Open every component, and connect them."""
        components = self._components
        await components.open_nodes(stack)
        await self._late.watch(components.runtimes.values())
        if forward := await components.open_forward(stack):
            sink, runtime = forward
            self._route.forward_to(sink, runtime.stats, runtime.policy)
        wiring = wire(self.plan, components.runtimes)
        stack.callback(wiring.close)
        return wiring

    async def _prepare_sources(self, wiring: Wiring) -> None:
        """Store every manifest in the ledger before anything is read."""
        for segment in wiring.segments:
            runtime = segment.head
            name, source = runtime.node.name, runtime.component
            if not isinstance(source, Source):
                continue
            splits = await self._listing.splits(source, runtime)
            if splits.total or runtime.stats.aggregate.get("unchanged"):
                self._matched.add(name)
            replay = not self._components.new_ids(name)
            task = SourceTask(
                segment,
                splits=splits,
                track=partial(self.ledger.track, name, replay=replay),
                announce=self.ledger.announce,
                outlet=wiring.outlets.get(id(segment)),
                clock=self._clock,
                dead_letters=self._route,
                stop=self._stop,
            )
            self._sources.append(task)
            if self._drain.asked:
                task.drain()

    async def _process(self, wiring: Wiring) -> None:
        """Read and process records until everything is settled or the run stops."""
        async with anyio.create_task_group() as keeper:
            keeper.start_soon(self.ledger.commit_periodically)
            keeper.start_soon(self._events.watch, self._components.stats)
            if self.identity.chunk is not None and self.plan.dead_letters.limited:
                keeper.start_soon(self.ledger.refresh_other_workers_periodically)
            async with anyio.create_task_group() as group:
                for source in self._sources:
                    group.start_soon(source.run)
                for segment in wiring.segments:
                    if segment.head.node.kind is not Kind.SOURCE:
                        group.start_soon(self._work, segment, wiring)
            keeper.cancel_scope.cancel()

    async def _conclude(self) -> None:
        """Check that every record is accounted for, then notify and query the sinks."""
        undone = sum(stats.undone for stats in self._components.stats()) if self._drain.asked else 0
        if left := self.ledger.in_flight - undone:
            raise EngineError(f"{left} records are unaccounted for (internal error)")
        self.settled = not undone
        self.finished = not undone and all(source.finished for source in self._sources)
        # a killed attempt may have delivered more than is counted until all is read again
        if self._count and (self.finished or not self.identity.resumed):
            for source in self._sources:
                await source.splits.skip_done()
            self.counts = await self._ask_sinks()
        if not self.finished:
            return
        await self.ledger.commit()  # before the sinks are notified that the run is complete
        if self.identity.chunk is None:
            # before a sink replaces existing rows by the new ones
            error = unmet(self.plan, self.ledger.live(), self._matched)
            if error is not None:
                raise error
        await self._components.tell_completed()

    async def _ask_sinks(self) -> list[Check]:
        components = self._components
        return await ask_sinks(
            [one for one in components.runtimes.values() if one.node.kind is Kind.SINK],
            components.forward,
            run_id=self.identity.run_id,
            tally=self.ledger.live(),
            store=self._resources.store,
            clock=self._clock,
            unique=all(components.new_ids(name) for name in components.sources()),
        )

    async def _work(self, segment: Segment, wiring: Wiring) -> None:
        head = segment.head
        concurrency = head.node.options.concurrency or head.component.concurrency
        if not is_count(concurrency):
            what = f"its `concurrency` must be a whole number of at least 1, got {concurrency!r}"
            raise NodeFailedError(head.node.name, what)
        head.stats.workers = concurrency
        await run_workers(
            segment,
            edge=wiring.edges[head.node.name],
            outlet=wiring.outlets.get(id(segment)),
            concurrency=concurrency,
            budget=self._resources.budget,
            clock=self._clock,
            dead_letters=self._route,
            stop=self._stop,
            repeated_keys=not self.distinct_keys,
        )
