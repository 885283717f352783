"""What a run is doing, as values: counters that the runner keeps and snapshots that anybody may read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.acks import Tally
from engine.component import Kind

__all__ = ["NodeSnapshot", "NodeStats", "RunSnapshot", "Waiting"]


class Waiting(StrEnum):
    """What a node waits for right now."""

    NOTHING = ""
    INPUT = "input"
    DOWNSTREAM = "downstream"
    MEMORY = "memory"
    RETRY = "retry"
    OUTAGE = "outage"


@dataclass(slots=True)
class NodeStats:
    """Counters of one node; written by the runner only."""

    name: str
    kind: Kind
    component: str
    workers: int = 1
    records_in: int = 0
    records_out: int = 0
    batches: int = 0
    retries: int = 0
    dead: int = 0
    dropped: int = 0
    busy: float = 0.0
    blocked: float = 0.0
    waiting: Waiting = Waiting.NOTHING
    note: str = ""
    aggregate: dict[str, float] = field(default_factory=dict)

    def snapshot(self, elapsed: float) -> NodeSnapshot:
        """These counters as they are now."""
        capacity = elapsed * self.workers
        return NodeSnapshot(
            name=self.name,
            kind=self.kind,
            component=self.component,
            workers=self.workers,
            records_in=self.records_in,
            records_out=self.records_out,
            batches=self.batches,
            retries=self.retries,
            dead=self.dead,
            dropped=self.dropped,
            busy_seconds=self.busy,
            blocked_seconds=self.blocked,
            utilisation=min(1.0, self.busy / capacity) if capacity > 0 else 0.0,
            waiting=self.waiting,
            note=self.note,
            aggregate=dict(self.aggregate),
        )


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One node at one moment.

    `busy_seconds`: in the component's own code or waiting for what it called, summed over its workers;
    `blocked_seconds`: waiting for room downstream; `utilisation`: busy share of the workers' time, 0 to 1.
    """

    name: str
    kind: Kind
    component: str
    workers: int
    records_in: int
    records_out: int
    batches: int
    retries: int
    dead: int
    dropped: int
    busy_seconds: float
    blocked_seconds: float
    utilisation: float
    waiting: Waiting
    note: str
    aggregate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """One run at one moment.

    `tally` is live: it counts what the ledger will only know after its next commit.
    """

    run_id: str
    pipeline: str
    elapsed: float
    tally: Tally
    bytes_in_flight: int
    bytes_budget: int
    nodes: Sequence[NodeSnapshot]
    draining: bool = False

    @property
    def bottleneck(self) -> NodeSnapshot | None:
        """The node whose workers were busiest; None before anything has happened."""
        busy = [node for node in self.nodes if node.busy_seconds > 0]
        return max(busy, key=lambda node: node.utilisation, default=None)

    @property
    def waits_for(self) -> str:
        """What holds the run up right now, in a word or two; "" when nothing does."""
        for state in (Waiting.OUTAGE, Waiting.RETRY):
            for node in self.nodes:
                if node.waiting is state:
                    return f"{node.name} ({node.note or state})"
        blocked = [index for index, node in enumerate(self.nodes) if node.waiting is Waiting.DOWNSTREAM]
        if blocked and blocked[-1] + 1 < len(self.nodes):
            return self.nodes[blocked[-1] + 1].name
        if any(node.waiting is Waiting.MEMORY for node in self.nodes):
            return "memory"
        return ""
