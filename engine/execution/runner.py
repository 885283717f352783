"""Run one plan: open its components, run one task per segment, and keep the ledger.

run ──┬── source segment ──edge──▶ worker segment ──edge──▶ worker segment
      ├── ledger commits, every 100 ms
      └── dead-letter route, shared by all segments
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any

import anyio
from pydantic import BaseModel

from engine.contract.chunk import Chunk
from engine.contract.clock import Clock
from engine.contract.component import Component, Context, Kind, Sink, Source, Transform
from engine.contract.shared import Shared
from engine.contract.verification import Check
from engine.dead_letters.queue import DeadLetterRoute
from engine.errors import EngineError, NodeFailedError, PipelineTimeoutError, StateError
from engine.execution.journal import Journal
from engine.execution.late_deliveries import LateDeliveries
from engine.execution.ledger import Ledger, SourceBookmarks
from engine.execution.node_events import NodeEvent, NodeEvents
from engine.execution.verification import ask_sinks
from engine.fault_injection import reached
from engine.flow.budget import ByteBudget, WatchedAllowance
from engine.flow.edge import Edge
from engine.flow.errors import cause_of
from engine.flow.limits import unmet
from engine.flow.opening import closing_by_name
from engine.flow.outage import Outage
from engine.flow.reading import SourceTask
from engine.flow.retry import ComponentRetry, RetryPolicy
from engine.flow.segment import DEFAULT_BUFFER, Outlet, Runtime, Segment, Wiring, cut, run_workers
from engine.flow.stats import NodeStats, RunSnapshot, Waiting
from engine.flow.stopping import Drain, Stop
from engine.plan.model import Plan, PlanNode
from engine.state.protocol import SplitRecord, StateStore

__all__ = ["DRAIN_LIMIT", "Runner", "RunnerResources"]

DRAIN_LIMIT = 30.0  # seconds; what supervisors of processes usually grant
STOP_LIMIT = 120.0  # seconds; nobody waits for the process then, and what is in flight may have been paid for

Connect = Callable[[PlanNode], BaseModel | None]


@dataclass(slots=True)
class RunnerResources:
    """Resources that the engine gives to a run."""

    store: StateStore
    journal: Journal
    budget: ByteBudget
    clock: Clock
    connect: Connect
    drain_limit: float = DRAIN_LIMIT
    shared: Shared = field(default_factory=Shared)
    tell: NodeEvent | None = None


@dataclass(slots=True)
class RunIdentity:
    """The identity of a run over all its attempts, and the current attempt.

    `epoch` is that of the lease; attempts are counted from 1. `chunk`: only this part of the run is done
    here, others do the rest.
    """

    run_id: str
    seed: str
    started_at: datetime
    resumed: bool = False
    epoch: int = 0
    attempt: int = 1
    chunk: Chunk | None = None

    @property
    def chunk_name(self) -> str:
        """Name of the part of the run processed here; "" for all of it."""
        return self.chunk.name if self.chunk is not None else ""


class Runner:
    """One attempt at a run; call `execute` once.

    Args:
        count: ask the sinks at the end what they have of the run; what they said is in `counts`.

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
        self._runtimes: dict[str, Runtime] = {}
        self._sources: list[SourceTask] = []
        self._scope = anyio.CancelScope()
        self._started = perf_counter()
        self._ended: float | None = None
        self._drain = Drain()
        self._stop = Stop(self._on_stop)
        self._reading = False
        self._matched: set[str] = set()
        self._trouble: EngineError | None = None
        shared = identity.chunk is not None
        self.ledger = Ledger(resources.store, identity.run_id, identity.epoch, shared=shared)
        self.finished = self.settled = False
        self.counts: list[Check] = []
        self._count = count
        self.forward_stats: NodeStats | None = None
        self._late = LateDeliveries(resources.store, plan, identity.run_id)
        self._opening: NodeStats | None = None  # of the node that is being opened
        self._forward: Runtime | None = None
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
        )

    @property
    def dead_letters(self) -> int:
        """Number of dead letters of this attempt."""
        return self._route.count

    def snapshot(self) -> RunSnapshot:
        """Return the current state of the run."""
        elapsed = (self._ended or perf_counter()) - self._started
        return RunSnapshot(
            run_id=self.identity.run_id,
            pipeline=self.plan.pipeline,
            elapsed=elapsed,
            tally=self.ledger.live(),
            bytes_in_flight=self._resources.budget.in_use,
            bytes_budget=self._resources.budget.capacity,
            nodes=[stats.snapshot(elapsed) for stats in self._all_stats()],
            draining=self._drain.asked,
            forward=self.forward_stats.snapshot(elapsed) if self.forward_stats is not None else None,
        )

    def drain(self) -> None:
        """Stop reading; deliver and commit what is in flight, or give it up after the drain limit.

        What waits for an outage to end is given up at once: it could not be delivered, and nothing is lost,
        because a resume reads it again.
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
            OutageError: the source was away for longer than `outage_limit`.
            RunError: it cannot be opened or listed.
        """
        node = self.plan.node(name)
        stats = NodeStats(node.name, node.kind, node.spec.name)
        async with AsyncExitStack() as stack:
            source = await self._enter(stack, node, stats)
            assert isinstance(source, Source)
            outage, furthest = self._listing(stats, self._policy(node)), 0

            def note(listed: int) -> None:
                nonlocal furthest
                if listed > furthest:  # what was listed before says nothing: each try begins anew
                    furthest = listed
                    outage.over()
                on_page(listed)

            pages = partial(self.ledger.list_in_pages, name, source, source.ctx, note)
            return await outage.through(pages)

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
        failure: Exception | None = None
        async with anyio.create_task_group() as watch:
            watch.start_soon(self._bound_drain)
            watch.start_soon(self._bound_time)
            try:
                await self._execute()
            except Exception as error:  # noqa: BLE001 - raised below, where no group wraps it and its cause
                failure = error
            watch.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _bound_time(self) -> None:
        """Drain the run when the pipeline's `timeout` has passed."""
        timeout = self.plan.settings.timeout
        if timeout is not None:
            await anyio.sleep(timeout)
            self._stop.take(PipelineTimeoutError(f"{self.plan.pipeline!r} ran longer than {timeout:g} s"))

    async def _bound_drain(self) -> None:
        """Once a drain is asked for, end the run when it cannot or must not take any longer."""
        await self._drain.over(lambda: self._reading and not self._in_outage())
        self.cancel()

    def _all_stats(self) -> list[NodeStats]:
        every = (*(runtime.stats for runtime in self._runtimes.values()), self._opening)
        return [stats for stats in every if stats is not None]

    def _in_outage(self) -> bool:
        every = [*self._all_stats(), self.forward_stats]
        return any(stats is not None and stats.waiting is Waiting.OUTAGE for stats in every)

    async def _close_books(self, *, failed: bool = False) -> None:
        """Commit what is settled; when the run has failed already, that is the error to show."""
        self._ended = perf_counter()
        self._events.end(self.snapshot().nodes)
        with anyio.CancelScope(shield=True):
            try:
                await self.ledger.commit()
                await self._late.close()
            except StateError:
                if not failed:
                    raise
        reached("books_closed")

    async def _execute(self) -> None:
        async with AsyncExitStack() as stack:
            await self._open(stack)
            wiring = self._wire()
            stack.callback(wiring.close)
            await self._prepare_sources(wiring)
            if self.plan.dead_letters.limited:
                await (
                    self.ledger.refresh_other_workers()
                )  # a short chunk may be done before it has looked once
            self._route.begin()
            self._reading = True
            async with anyio.create_task_group() as keeper:
                keeper.start_soon(self.ledger.commit_periodically)
                keeper.start_soon(self._events.watch, self._all_stats)
                if self.identity.chunk is not None and self.plan.dead_letters.limited:
                    keeper.start_soon(self.ledger.refresh_other_workers_periodically)
                async with anyio.create_task_group() as group:
                    for source in self._sources:
                        group.start_soon(source.run)
                    for segment in wiring.segments:
                        if segment.head.node.kind is not Kind.SOURCE:
                            group.start_soon(self._work, segment, wiring)
                keeper.cancel_scope.cancel()
            if self._stop.error is not None:
                return  # what the failed node left unsettled is read again by a resume
            undone = sum(stats.undone for stats in self._all_stats()) if self._drain.asked else 0
            if left := self.ledger.in_flight - undone:
                raise EngineError(f"{left} records are unaccounted for (internal error)")
            self.settled = not undone
            self.finished = not undone and all(source.finished for source in self._sources)
            if self._count:
                self.counts = await self._ask_sinks()
            if self.finished:
                await self._tell_sinks()
                if self.identity.chunk is None and (
                    error := unmet(self.plan, self.ledger.live(), self._matched)
                ):
                    raise error

    async def _tell_sinks(self) -> None:
        """Tell the sinks that the run is complete, once the ledger says so too."""
        await self.ledger.commit()
        runtimes = [*self._runtimes.values(), *([self._forward] if self._forward is not None else [])]
        for component in [one.component for one in runtimes]:
            if isinstance(component, Sink):
                await component.run_completed()

    async def _ask_sinks(self) -> list[Check]:
        return await ask_sinks(
            [one for one in self._runtimes.values() if one.node.kind is Kind.SINK],
            self._forward,
            run_id=self.identity.run_id,
            tally=self.ledger.live(),
            store=self._resources.store,
            clock=self._clock,
            unique=all(self._new_ids(name, source) for name, source in self._open_sources()),
        )

    async def _open(self, stack: AsyncExitStack) -> None:
        """Build and enter every component, in the plan's order."""
        dead_keys: Mapping[str, Collection[str]] = {}
        if self.identity.resumed:
            store, identity = self._resources.store, self.identity
            dead_keys = await store.dead_letter_keys(identity.run_id, identity.chunk_name)
        for node in self.plan.nodes:
            stats = NodeStats(node.name, node.kind, node.spec.name)
            component = await self._enter(stack, node, stats)
            died = frozenset(dead_keys.get(node.name, ()))
            self._runtimes[node.name] = Runtime(node, component, stats, self._policy(node), dead_keys=died)
            self._opening = None
        await self._late.watch(self._runtimes.values())
        forward = self.plan.dead_letters.forward
        if forward is not None:
            self.forward_stats = stats = NodeStats(forward.name, forward.kind, forward.spec.name)
            sink = await self._enter(stack, forward, stats)
            self._opening = None
            assert isinstance(sink, Sink)
            self._forward = Runtime(forward, sink, stats, self._policy(forward))
            self._route.forward_to(sink, stats, self._forward.policy)

    async def _enter(self, stack: AsyncExitStack, node: PlanNode, stats: NodeStats) -> Component[Any]:
        context = Context(
            pipeline=self.plan.pipeline,
            node=node.name,
            run_id=self.identity.run_id,
            seed=self.identity.seed,
            started_at=self.identity.started_at,
            attempt=self.identity.attempt,
            epoch=self.identity.epoch,
            chunk=self.identity.chunk_name,
            distinct_keys=self.distinct_keys,
            clock=self._clock,
            memory_budget=WatchedAllowance(self._resources.budget, stats),
            draining=lambda: self._drain.asked,
            aggregate=stats.aggregate,
            journal=self._resources.journal.of_node(self.plan.pipeline, node.name, self.identity.run_id),
            bookmarks=SourceBookmarks(self._resources.store, self.plan.pipeline, node.name),
            retry=ComponentRetry(self._policy(node), stats, self._clock),
            shared=self._resources.shared,
        )

        async def opened() -> Component[Any]:
            component = node.spec.factory(node.params, self._resources.connect(node))
            component.ctx = context
            return await stack.enter_async_context(closing_by_name(node.name, component))

        self._opening = stats
        return await Outage("be opened", stats, self._policy(node), self._clock).through(opened)

    def _policy(self, node: PlanNode) -> RetryPolicy:
        return RetryPolicy.of(node.options, outage_limit=self.plan.settings.outage_limit)

    def _wire(self) -> Wiring:
        segments = cut(self.plan, self._runtimes)
        heads = {segment.head.node.name: segment for segment in segments}
        edges = {
            name: Edge(segment.head.node.options.buffer or DEFAULT_BUFFER)
            for name, segment in heads.items()
            if segment.head.node.kind is not Kind.SOURCE
        }
        outlets = {}
        for segment in segments:
            behind = self.plan.downstream(segment.tail.node.name)
            if behind:
                outlets[id(segment)] = Outlet(
                    {node.name: edges[node.name] for node in behind}, segment.tail.stats
                )
        return Wiring(segments, edges, outlets)

    async def _prepare_sources(self, wiring: Wiring) -> None:
        """Put every manifest in the ledger before anything is read."""
        for segment in wiring.segments:
            node, component = segment.head.node, segment.head.component
            if not isinstance(component, Source):
                continue
            resumed = self.identity.resumed
            if resumed and not component.resumable:
                await self._refuse_second_reading(node.name)
            if self.identity.chunk is not None:
                records = await self._splits_of_chunk(node.name, self.identity.chunk)
            else:
                splits = partial(self.ledger.splits, node.name, component, component.ctx, resumed=resumed)
                records = await self._listing(segment.head.stats, segment.head.policy).through(splits)
            replay = resumed or not self._new_ids(node.name, component)
            if records or segment.head.stats.aggregate.get("unchanged"):
                self._matched.add(node.name)
            for record in records:
                if record.done:
                    self.ledger.skip(record)
            task = SourceTask(
                segment,
                splits=[record for record in records if not record.done],
                track=lambda record, name=node.name, replay=replay: self.ledger.track(  # type: ignore[misc]
                    name, record, replay=replay
                ),
                outlet=wiring.outlets.get(id(segment)),
                clock=self._clock,
                dead_letters=self._route,
                stop=self._stop,
            )
            self._sources.append(task)
            if self._drain.asked:
                task.drain()

    def _new_ids(self, name: str, source: Source[Any]) -> bool:
        """True when nobody can have delivered the ids of these records before, and each comes once."""
        return source.fresh_keys and self._keeps_ids(name)

    def _keeps_ids(self, source: str) -> bool:
        """True when no transform behind a source gives its records other ids."""
        behind = {source}
        for node in self.plan.nodes:  # in topological order
            if behind.intersection(node.inputs):
                behind.add(node.name)
        components = (self._runtimes[name].component for name in behind)
        return all(one.keeps_ids for one in components if isinstance(one, Transform))

    async def _refuse_second_reading(self, name: str) -> None:
        """What a source gives a second time under other keys would be delivered twice."""
        known, begun = await self._resources.store.splits(self.identity.run_id, name)
        if begun and not all(record.done for record in known):
            raise NodeFailedError(
                name, "it can be read only once, so its run cannot be resumed: start a new one"
            )

    async def _splits_of_chunk(self, name: str, chunk: Chunk) -> Sequence[SplitRecord]:
        if name != chunk.node:
            return []  # it is read in chunks of its own
        store, run_id = self._resources.store, self.identity.run_id
        records, _ = await store.splits(run_id, name, start=chunk.first, limit=chunk.count)
        return records

    def _listing(self, stats: NodeStats, policy: RetryPolicy) -> Outage:
        return Outage("list its input", stats, policy, self._clock)

    async def _work(self, segment: Segment, wiring: Wiring) -> None:
        head = segment.head
        concurrency = head.node.options.concurrency or head.component.concurrency
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

    def _open_sources(self) -> list[tuple[str, Source[Any]]]:
        every = ((name, runtime.component) for name, runtime in self._runtimes.items())
        return [(name, component) for name, component in every if isinstance(component, Source)]

    @property
    def distinct_keys(self) -> bool:
        """Whether no key occurs twice in the run, as far as its sources know."""
        return all(source.distinct_keys for _, source in self._open_sources())
