"""Statistics of a run: counters of the runner and immutable snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter

from engine.contract.acks import Tally
from engine.contract.component import Kind
from engine.flow.tapping import NodeTaps
from engine.flow.tracing import NodeTrace
from engine.redaction import without_credentials


class Waiting(StrEnum):
    """What a node is waiting for, in order of severity."""

    NOTHING = ""
    INPUT = "input"
    DOWNSTREAM = "downstream"
    MEMORY = "memory"
    RETRY = "retry"
    OUTAGE = "outage"


_STUCK = (Waiting.OUTAGE, Waiting.RETRY)
_GRAVITY = {state: place for place, state in enumerate(Waiting)}


class _Pause:
    """Marks one of a node's workers as waiting during a block."""

    __slots__ = ("_stats", "note", "waiting")

    def __init__(self, stats: NodeStats, waiting: Waiting, note: str) -> None:
        self._stats = stats
        self.waiting = waiting
        self.note = without_credentials(note)

    def __enter__(self) -> None:
        self._stats.pauses.append(self)
        self._stats.look()

    def __exit__(self, *_: object) -> None:
        self._stats.pauses.remove(self)
        self._stats.look()


@dataclass(slots=True)
class NodeStats:
    """Counters of one node; written by the runner only.

    `waiting` is the most severe wait of its workers; `note` describes it: the last answer of the service, or
    the node that is full. `undone`: records left for a resume, because the run was stopped. `calls`:
    unfinished calls of the component, whose starts are subtracted from `busy` until they end.
    """

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
    undone: int = 0
    busy: float = 0.0
    calls: int = 0
    blocked: float = 0.0
    waiting: Waiting = Waiting.NOTHING
    note: str = ""
    aggregate: dict[str, float] = field(default_factory=dict)
    pauses: list[_Pause] = field(default_factory=list)
    trace: NodeTrace | None = None
    taps: NodeTaps = field(default_factory=NodeTaps)

    def begin_call(self, now: float) -> None:
        """Count the time from now, by `perf_counter`, as busy, for one of the workers."""
        self.calls += 1
        self.busy -= now

    def end_call(self, now: float) -> None:
        """End a call that `begin_call` counts."""
        self.calls -= 1
        self.busy += now

    def waits(self, waiting: Waiting, note: str = "") -> _Pause:
        """Mark a block in which a worker of the node waits."""
        return _Pause(self, waiting, note)

    def look(self) -> None:
        """Return the most severe wait."""
        if not self.pauses:
            self.waiting, self.note = Waiting.NOTHING, ""
            return
        gravest = max(self.pauses, key=lambda pause: _GRAVITY[pause.waiting])
        self.waiting, self.note = gravest.waiting, gravest.note

    def snapshot(self, elapsed: float) -> NodeSnapshot:
        """Return the current counters."""
        capacity = elapsed * self.workers
        busy = self.busy + self.calls * perf_counter()
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
            busy_seconds=busy,
            blocked_seconds=self.blocked,
            utilisation=min(1.0, busy / capacity) if capacity > 0 else 0.0,
            waiting=self.waiting,
            note=self.note,
            aggregate=dict(self.aggregate),
        )


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One node at one moment.

    `busy_seconds`: time in the component's code, including its own waits, summed over its workers;
    `blocked_seconds`: waiting for room downstream; `utilisation`: busy share of the workers' time, 0 to 1.
    """

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
    busy_seconds: float = 0.0
    blocked_seconds: float = 0.0
    utilisation: float = 0.0
    waiting: Waiting = Waiting.NOTHING
    note: str = ""
    aggregate: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds_records(self) -> bool:
        """Whether it has received records that it has not passed on."""
        return self.records_in > self.records_out + self.dropped + self.dead


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """One run at one moment.

    `tally` is live: it is ahead of the ledger until the next commit. `forward` is the sink that receives
    copies of the dead letters. `state` describes a run of other processes, whose nodes are unknown here; ""
    otherwise.
    """

    run_id: str
    pipeline: str
    elapsed: float
    tally: Tally
    bytes_in_flight: int
    bytes_budget: int
    nodes: Sequence[NodeSnapshot]
    draining: bool = False
    forward: NodeSnapshot | None = None
    state: str = ""

    @property
    def bottleneck(self) -> NodeSnapshot | None:
        """The node with the busiest workers, or None at the start."""
        busy = [node for node in self.nodes if node.busy_seconds > 0]
        return max(busy, key=lambda node: node.utilisation, default=None)

    @property
    def every_node(self) -> Sequence[NodeSnapshot]:
        """The nodes, and the sink that receives copies of the dead letters."""
        return [*self.nodes, self.forward] if self.forward is not None else self.nodes

    @property
    def stuck(self) -> NodeSnapshot | None:
        """The first node that waits to retry, outages first; `outage_limit` bounds such a wait."""
        waiting = (node for state in _STUCK for node in self.every_node if node.waiting is state)
        return next(waiting, None)

    @property
    def waits_for(self) -> str:
        """What currently delays the run, briefly; "" if nothing does."""
        if (node := self.stuck) is not None:
            return f"{node.name} ({node.note or node.waiting})"
        # of several waiting nodes in a chain, the last one waits for the slow node
        blocked = [node for node in self.nodes if node.waiting is Waiting.DOWNSTREAM]
        if blocked:
            return blocked[-1].note
        if any(node.waiting is Waiting.MEMORY for node in self.nodes):
            holding = [node.name for node in self.nodes if node.holds_records]
            return f"memory, held by {holding[-1]}" if holding else "memory"
        return ""


def read_here(nodes: Iterable[NodeSnapshot]) -> int:
    """Return the records read in this attempt; a run's tally also covers earlier attempts."""
    return sum(node.records_in for node in nodes if node.kind is Kind.SOURCE)
