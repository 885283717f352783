"""Segments: runs of nodes that share a task, and how a plan is cut into them.

A chain of synchronous transforms belongs in the task of whatever feeds it. A new segment begins only where
concurrency pays or the graph forces it: at a source, at a node that waits for the outside, where branches
part or meet, and where batches have to be cut to size.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from engine.contract.batch import Batch
from engine.contract.clock import Clock
from engine.contract.component import BatchLimits, Component, Sink, Source, Transform
from engine.errors import EngineError, RecordError
from engine.flow.budget import ByteBudget
from engine.flow.edge import Edge
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.settle import settle_dropped
from engine.flow.sizing import estimate_batch
from engine.flow.skip_dead import skip_dead
from engine.flow.stats import NodeStats, Waiting
from engine.flow.steps import Next, Step, TransformStep, build_step
from engine.flow.stopping import Stop
from engine.flow.workers import BatchReader, OutOfTurnError, Sequencer, work
from engine.plan.model import Plan, PlanNode

__all__ = [
    "DEFAULT_BUFFER",
    "DeadLetterQueue",
    "Outlet",
    "Runtime",
    "Segment",
    "Wiring",
    "cut",
    "run_workers",
]

DEFAULT_BUFFER = 8
MEASURE_EVERY = 16  # batches between two looks at whether transforms made records grow
NOTICEABLE_GROWTH = 1.25


@dataclass
class Runtime:
    """A node of the plan with everything that lives as long as the run."""

    node: PlanNode
    component: Component[Any]
    stats: NodeStats
    policy: RetryPolicy
    health: NodeHealth = field(default_factory=NodeHealth)
    dead_keys: frozenset[str] = frozenset()
    """Keys of the records that have died here in an earlier attempt."""

    @property
    def limits(self) -> BatchLimits:
        """How this node wants its batches."""
        return self.node.options.batch or self.component.limits

    @property
    def stands_alone(self) -> bool:
        """True when the node needs an edge before it, whatever its upstream is."""
        component = self.component
        if isinstance(component, Source) or self.limits.rebatches or (self.node.options.concurrency or 1) > 1:
            return True
        if isinstance(component, Transform):
            return component.waits
        return isinstance(component, Sink) and not component.inline


@dataclass
class Segment:
    """Nodes that are worked on in one task, first to last."""

    nodes: list[Runtime]

    @property
    def head(self) -> Runtime:
        """The node that takes the segment's input, or is its source."""
        return self.nodes[0]

    @property
    def tail(self) -> Runtime:
        """The node whose output leaves the segment."""
        return self.nodes[-1]


class DeadLetterQueue(Protocol):
    """Takes records out of the flow for good; `engine.dead_letters.queue` has the one that runs use."""

    async def put(
        self, node: NodeStats, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        """Store, forward and settle these records of a batch."""
        ...

    async def resettle(self, node: NodeStats, batch: Batch) -> None:
        """Settle records that are stored already."""
        ...


def cut(plan: Plan, runtimes: Mapping[str, Runtime]) -> list[Segment]:
    """The plan's segments, in topological order."""
    segments: dict[str, Segment] = {}
    for node in plan.nodes:
        runtime = runtimes[node.name]
        upstream = node.inputs[0] if len(node.inputs) == 1 else ""
        fused = upstream and len(plan.downstream(upstream)) == 1 and not runtime.stands_alone
        if fused:
            segment = segments[upstream]
            segment.nodes.append(runtime)
        else:
            segment = Segment([runtime])
        segments[node.name] = segment
    return list({id(segment): segment for segment in segments.values()}.values())


class Outlet:
    """Where a segment's output goes: to every edge behind it, or nowhere when its last node is a sink.

    Args:
        edges: by the node that they lead to.
    """

    def __init__(self, edges: Mapping[str, Edge], stats: NodeStats) -> None:
        self.edges = list(edges.values())
        self._names = list(edges)
        self._stats = stats
        self._batches = 0
        self._growth = 1.0
        for edge in self.edges:
            edge.open_sender()

    def close(self) -> None:
        """This segment sends nothing more."""
        for edge in self.edges:
            edge.close_sender()

    async def send(self, batch: Batch) -> None:
        """Hand a batch to every edge, waiting for room."""
        edges = self.edges
        if len(edges) > 1:
            for ack, count in batch.origins:
                ack.fork(count * (len(edges) - 1))
        self._charge_growth(batch)
        for place, edge in enumerate(edges):
            if not edge.offer(batch):
                await self._wait_for_room(edge, self._names[place], batch)

    async def _wait_for_room(self, edge: Edge, name: str, batch: Batch) -> None:
        stats, started = self._stats, perf_counter()
        try:
            with stats.waits(Waiting.DOWNSTREAM, name):
                await edge.send(batch)
        finally:
            stats.blocked += perf_counter() - started

    def _charge_growth(self, batch: Batch) -> None:
        """Charge what transforms have added to the records: measured now and then, applied to all."""
        if self._batches % MEASURE_EVERY == 0 and batch.nbytes:
            growth = estimate_batch(batch.records) / batch.nbytes
            self._growth = growth if growth > NOTICEABLE_GROWTH else 1.0
        self._batches += 1
        if self._growth == 1.0 or not batch.nbytes:
            return
        nbytes = int(batch.nbytes * self._growth)
        for ack, count in batch.origins:
            ack.charge_growth((nbytes - batch.nbytes) * count // len(batch))
        batch.nbytes = nbytes


@dataclass
class Wiring:
    """Segments and the edges in front of those that do not begin with a source."""

    segments: list[Segment]
    edges: Mapping[str, Edge]
    outlets: Mapping[int, Outlet] = field(default_factory=dict)

    def close(self) -> None:
        """Nothing is sent any more."""
        for edge in self.edges.values():
            edge.close()


def chain(
    nodes: Sequence[Runtime], outlet: Next | None, clock: Clock, dead_letters: DeadLetterQueue
) -> Next | None:
    """The function that sees a batch through these nodes and then `outlet`; None when there is neither."""
    onward = outlet
    behind: Step | None = None  # the step that `onward` leads to, if it leads straight there
    if outlet is None and nodes and not isinstance(nodes[-1].component, Sink):
        onward = drop_unrouted(nodes[-1].stats)
    for runtime in reversed(nodes):
        suffix = runtime.node.options.key_suffix
        if suffix and onward:
            onward, behind = _suffixing(onward, suffix), None
        step = build_step(
            runtime.component, runtime.stats, runtime.policy, clock, dead_letters.put, runtime.health, onward
        )
        if isinstance(step, TransformStep) and isinstance(behind, TransformStep):
            step.following = behind
        onward, behind = step.process, step
        if runtime.dead_keys:
            onward = skip_dead(onward, runtime.stats, runtime.dead_keys, dead_letters.resettle)
            behind = None
    return onward


def drop_unrouted(stats: NodeStats) -> Next:
    """Takes what a node hands on when nothing is behind it: dropped, and said so."""

    async def drop(batch: Batch) -> None:
        stats.dropped += len(batch.records)
        settle_dropped(batch.origins, f"{stats.name}: nothing behind it")

    return drop


def _suffixing(onward: Next, suffix: str) -> Next:
    async def send(batch: Batch) -> None:
        await onward(batch.with_suffix(suffix))

    return send


async def run_workers(
    segment: Segment,
    *,
    edge: Edge,
    outlet: Outlet | None,
    concurrency: int,
    budget: ByteBudget,
    clock: Clock,
    dead_letters: DeadLetterQueue,
    stop: Stop | None = None,
) -> None:
    """Run a segment that begins behind an edge, until its input ends."""
    head = segment.head
    sequencer = Sequencer() if head.node.options.ordered and concurrency > 1 else None
    processes = [_worker(segment, outlet, sequencer, clock, dead_letters) for _ in range(concurrency)]
    intake = BatchReader(edge, head.limits, budget, head.stats)
    try:
        await work(intake.batches(), processes, outlet.edges if outlet is not None else (), stop)
    finally:
        if outlet is not None:
            outlet.close()


def _worker(
    segment: Segment,
    outlet: Outlet | None,
    sequencer: Sequencer | None,
    clock: Clock,
    dead_letters: DeadLetterQueue,
) -> Callable[[Batch, int], Awaitable[None]]:
    send = outlet.send if outlet is not None else None
    if sequencer is None:
        process = chain(segment.nodes, send, clock, dead_letters)
        assert process is not None

        def run(batch: Batch, ticket: int) -> Awaitable[None]:
            return process(batch)

        return run

    rest = chain(segment.nodes[1:], send, clock, dead_letters)
    current = 0

    async def in_turn(batch: Batch) -> None:
        await sequencer.wait(current)
        if rest is not None:
            await rest(batch)

    first = chain(segment.nodes[:1], in_turn if rest is not None else None, clock, dead_letters)
    assert first is not None

    async def run_ordered(batch: Batch, ticket: int) -> None:
        nonlocal current
        current = ticket
        try:
            await first(batch)
            await sequencer.wait(ticket)
        except OutOfTurnError:
            return  # it stays unsettled: a resume reads it behind the one that failed
        except EngineError:
            sequencer.fail(ticket)
            raise
        sequencer.leave(ticket)

    return run_ordered
