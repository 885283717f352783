"""The function that passes a batch through the nodes of a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.contract.batch import Batch
from engine.contract.clock import Clock
from engine.contract.component import Sink
from engine.errors import RecordError
from engine.flow.segment import Runtime
from engine.flow.settle import settle_dropped
from engine.flow.skip_dead import skip_dead
from engine.flow.stats import NodeStats
from engine.flow.steps import Next, SinkStep, Step, TransformStep, build_step


class DeadLetterQueue(Protocol):
    """Interface to the dead-letter queue; runs use `engine.dead_letters.queue`."""

    async def put(
        self, node: NodeStats, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        """Store, forward and settle these records of a batch."""

    async def resettle(self, node: NodeStats, batch: Batch) -> None:
        """Settle records whose dead letters are already stored."""


def chain(
    nodes: Sequence[Runtime], outlet: Next | None, clock: Clock, dead_letters: DeadLetterQueue
) -> Next | None:
    """Return the function that passes a batch through these nodes and `outlet`, or None."""
    onward = outlet
    behind: Step | None = None  # the step that `onward` calls directly, if any
    if outlet is None and nodes and not isinstance(nodes[-1].component, Sink):
        onward = drop_unrouted(nodes[-1].stats)
    for runtime in reversed(nodes):
        suffix = runtime.node.options.key_suffix
        if suffix and onward:
            onward, behind = _suffixing(onward, suffix), None
        step = build_step(
            runtime.component, runtime.stats, runtime.policy, clock, dead_letters.put, runtime.health, onward
        )
        step.makers = runtime.makers
        if isinstance(step, TransformStep) and isinstance(behind, TransformStep):
            step.following = behind
        if isinstance(step, SinkStep):
            step.open_dead_letters = runtime.open_dead_letters
        onward, behind = step.process, step
        if runtime.dead_keys:
            onward = skip_dead(onward, runtime.stats, runtime.dead_keys, dead_letters.resettle)
            behind = None
    return onward


def drop_unrouted(stats: NodeStats) -> Next:
    """Drop and count the output of a node without a downstream node."""

    async def drop(batch: Batch) -> None:
        stats.dropped += len(batch.records)
        settle_dropped(batch.origins, f"{stats.name}: no downstream node")

    return drop


def _suffixing(onward: Next, suffix: str) -> Next:
    async def send(batch: Batch) -> None:
        await onward(batch.with_suffix(suffix))

    return send
