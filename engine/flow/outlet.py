"""The output of a segment: the edges to the next segments; charges the growth of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from engine.contract.batch import Batch
from engine.contract.component import Kind
from engine.flow.branching import divide
from engine.flow.edge import Edge
from engine.flow.segment import Runtime, Segment, cut
from engine.flow.sizing import estimate_batch
from engine.flow.stats import NodeStats, Waiting
from engine.plan.model import Plan, PlanNode

DEFAULT_BUFFER = 8
MEASURE_EVERY = 16  # batches between two measurements of the records' growth
NOTICEABLE_GROWTH = 1.25


class Outlet:
    """The output of a segment: every outgoing edge, or nothing after a final sink.

    Args:
        edges: by the node that they lead to.
        branches: the branches of a router that each node reads; nodes without an entry read all.
    """

    def __init__(
        self, edges: Mapping[str, Edge], stats: NodeStats, branches: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.edges = list(edges.values())
        self._names = list(edges)
        self._readers = [(branches or {}).get(name, ()) for name in edges]
        self._stats = stats
        self._batches = 0
        self._growth = 1.0
        for edge in self.edges:
            edge.open_sender()

    def close(self) -> None:
        """Unregister the segment at its edges."""
        for edge in self.edges:
            edge.close_sender()

    async def send(self, batch: Batch) -> None:
        """Send a batch to every edge, waiting for room."""
        if batch.branches is not None:
            await self._send_branches(batch)
            return
        edges = self.edges
        if len(edges) > 1:
            for ack, count in batch.origins:
                ack.fork(count * (len(edges) - 1))
        self._charge_growth(batch)
        for place, edge in enumerate(edges):
            if not edge.offer(batch):
                await self._wait_for_room(edge, self._names[place], batch)

    async def _send_branches(self, batch: Batch) -> None:
        """Send each node the records of the branches that it reads."""
        self._charge_growth(batch)
        parts = divide(batch, self._readers, f"{self._stats.name}: no downstream node")
        for edge, name, part in zip(self.edges, self._names, parts, strict=True):
            if part.records and not edge.offer(part):
                await self._wait_for_room(edge, name, part)

    async def _wait_for_room(self, edge: Edge, name: str, batch: Batch) -> None:
        stats, started = self._stats, perf_counter()
        try:
            with stats.waits(Waiting.DOWNSTREAM, name):
                await edge.send(batch)
        finally:
            stats.blocked += perf_counter() - started

    def _charge_growth(self, batch: Batch) -> None:
        """Charge the growth of records through transforms: measured occasionally, applied to all."""
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
    """Segments, and the edges in front of those that do not start with a source."""

    segments: list[Segment]
    edges: Mapping[str, Edge]
    outlets: Mapping[int, Outlet] = field(default_factory=dict)

    def close(self) -> None:
        """Close all edges."""
        for edge in self.edges.values():
            edge.close()


def wire(plan: Plan, runtimes: Mapping[str, Runtime]) -> Wiring:
    """Divide a plan into segments, and connect them with edges."""
    segments = cut(plan, runtimes)
    heads = {segment.head.node.name: segment for segment in segments}
    edges = {
        name: Edge(segment.head.node.options.buffer or DEFAULT_BUFFER)
        for name, segment in heads.items()
        if segment.head.node.kind is not Kind.SOURCE
    }
    outlets = {}
    for segment in segments:
        behind = plan.downstream(segment.tail.node.name)
        if behind:
            outlets[id(segment)] = Outlet(
                {node.name: edges[node.name] for node in behind},
                segment.tail.stats,
                _branches_read(behind, segment.tail.node.name),
            )
    return Wiring(segments, edges, outlets)


def _branches_read(nodes: Sequence[PlanNode], name: str) -> dict[str, Sequence[str]]:
    return {node.name: node.input_branches[name] for node in nodes if name in node.input_branches}
