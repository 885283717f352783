"""Segments: groups of nodes that share a task, and the division of a plan into them.

A chain of synchronous transforms shares the task of the node before it. A new segment begins only where
concurrency helps or the graph requires it: at a source, at a node that waits for I/O, where branches split or
merge, and where batches have to be resized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.contract.component import BatchLimits, Component, Sink, Source, Transform
from engine.contract.records import Makers
from engine.flow.open_dead_letters import OpenDeadLetters
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.stats import NodeStats
from engine.plan.model import Plan, PlanNode


@dataclass
class Runtime:
    """A node of the plan with its resources for the run."""

    node: PlanNode
    component: Component[Any]
    stats: NodeStats
    policy: RetryPolicy
    health: NodeHealth = field(default_factory=NodeHealth)
    dead_keys: frozenset[str] = frozenset()
    """Keys of records that died here in an earlier attempt."""
    makers: Makers = ()
    """Methods of the components that make the records of this node."""
    open_dead_letters: OpenDeadLetters | None = None
    """Dead letters of earlier runs that a delivery at this sink closes."""

    @property
    def limits(self) -> BatchLimits:
        """The batch limits of this node."""
        return self.node.options.batch or self.component.limits

    @property
    def stands_alone(self) -> bool:
        """Whether the node always needs an edge in front of it."""
        component = self.component
        if isinstance(component, Source) or self.limits.rebatches or (self.node.options.concurrency or 1) > 1:
            return True
        if isinstance(component, Transform):
            return component.waits
        return isinstance(component, Sink) and not component.inline


@dataclass
class Segment:
    """Nodes that share a task, in order."""

    nodes: list[Runtime]

    @property
    def head(self) -> Runtime:
        """The node that takes the segment's input, or is its source."""
        return self.nodes[0]

    @property
    def tail(self) -> Runtime:
        """The node whose output leaves the segment."""
        return self.nodes[-1]


def cut(plan: Plan, runtimes: Mapping[str, Runtime]) -> list[Segment]:
    """Divide a plan into segments, in topological order."""
    segments: dict[str, Segment] = {}
    for node in plan.nodes:
        runtime = runtimes[node.name]
        upstream = node.inputs[0] if len(node.inputs) == 1 else ""
        branches = node.input_branches.get(upstream)
        alone = runtime.stands_alone or branches or len(plan.downstream(upstream)) != 1
        fused = upstream and not alone
        if fused:
            segment = segments[upstream]
            segment.nodes.append(runtime)
        else:
            segment = Segment([runtime])
        segments[node.name] = segment
    return list({id(segment): segment for segment in segments.values()}.values())
