"""The real side of the model: the parts of the engine in the memory of one process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Component, Context, Kind, NoParams, Sink, Transform
from engine.dead_letters.queue import DeadLetterRoute
from engine.errors import RecordError, TransientError
from engine.execution.ledger import Ledger
from engine.flow.batching import Batcher
from engine.flow.budget import ByteBudget
from engine.flow.chain import chain
from engine.flow.edge import Edge
from engine.flow.outlet import Outlet
from engine.flow.reading import SourceTask
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.segment import Runtime, Segment
from engine.flow.stats import NodeStats
from engine.plan.model import DeadLetterSettings, PlanNode
from engine.state.records import Lease, SplitRecord
from engine.testing import ScriptedClock, stand_in
from tests.reliability.model.components import Tape
from tests.reliability.model.stores import MortalStore

__all__ = ["BATCHERS", "Process"]

BATCHERS = (BatchLimits(records=5), BatchLimits(records=7, nbytes=150))
PATIENT = RetryPolicy(attempts=3, base=1.0, cap=1.0, outage_limit=4.0)
ON_STALL = RetryPolicy(attempts=2, base=1.0, cap=1.0, outage_limit=4.0, dead_letter_on_stall=True)


class _OneSplit:
    """A split to be read, as the engine's `SplitPages` gives it."""

    total = 1

    def __init__(self, record: SplitRecord) -> None:
        self._left = [record]

    @property
    def exhausted(self) -> bool:
        return not self._left

    async def next(self) -> SplitRecord | None:
        return self._left.pop() if self._left else None

    async def skip_done(self) -> None:
        self._left.clear()


class Process:
    """One attempt at the run; thrown away as a whole when it dies.

    Attributes:
        trackers: the acks of each split that is not done, by split key.
        died: (node, key) of the records that were settled as dead by the last call.
    """

    def __init__(self, store: MortalStore, lease: Lease, dead_keys: Mapping[str, Collection[str]]) -> None:
        self.store = store
        self.fuse = store.fuse
        self.lease = lease
        self.dead_keys = dead_keys
        self.ledger = Ledger(store, lease.run_id, lease.epoch)
        self.budget = ByteBudget(1 << 30)
        self.batchers = [Batcher(limits) for limits in BATCHERS]
        self.trackers: dict[str, SplitTracker] = {}
        self.died: list[tuple[str, str]] = []
        self._records: dict[str, SplitRecord] = {}
        self._clock = ScriptedClock(jump=True)
        self._health: dict[str, NodeHealth] = {}
        self._route = DeadLetterRoute(
            run_id=lease.run_id,
            pipeline="p",
            store=store,
            settings=DeadLetterSettings(),
            clock=self._clock,
            tally=self.ledger.live,
        )

    async def plan(self, node: str, tape: Tape) -> Sequence[SplitRecord]:
        """Put a source's splits in the ledger, or find them there."""
        tape.ctx = Context(memory_budget=self.budget)
        await self.ledger.list_in_pages(node, tape, tape.ctx)
        records, _ = await self.store.splits(self.lease.run_id, node)
        for record in records:
            if record.done:
                self.ledger.skip(record)
            else:
                self._records[record.split.key] = record
                self.trackers[record.split.key] = self.ledger.track(node, record, replay=False)
        return records

    async def read(
        self, node: str, tape: Tape, key: str, played: Sequence[Batch | TransientError], *, more: bool
    ) -> list[Batch]:
        """Have the engine read what is played, and then drain, or come to the split's end."""
        edge = Edge(len(played) + 1)
        runtime = self._runtime(node, Kind.SOURCE, tape, PATIENT)
        task = SourceTask(
            Segment([runtime]),
            splits=_OneSplit(self._records[key]),
            track=lambda record: self.trackers[record.split.key],
            announce=self.ledger.announce,
            outlet=Outlet({"behind": edge}, runtime.stats),
            clock=self._clock,
            dead_letters=self,
        )
        tape.upcoming, tape.at_the_end = list(played), task.drain if more else None
        await task.run()
        return _all_of(edge)

    async def work(
        self, node: str, component: Transform[Any] | Sink[Any], batch: Batch, out: list[Batch] | None,
        *, on_stall: bool = False,
    ) -> None:  # fmt: skip
        """See a batch through one node; `out` gets what is handed on, None is a last node."""
        kind = Kind.SINK if isinstance(component, Sink) else Kind.TRANSFORM
        runtime = self._runtime(node, kind, component, ON_STALL if on_stall else PATIENT)

        async def collect(derived: Batch) -> None:
            assert out is not None
            out.append(derived)

        process = chain([runtime], None if out is None else collect, self._clock, self)
        assert process is not None
        await process(batch)

    async def branch(self, batch: Batch, branches: int) -> list[Batch]:
        """Fan a batch out to several edges, under a key suffix for each branch."""
        edges = [Edge(1) for _ in range(branches)]
        behind = {f"branch {number}": edge for number, edge in enumerate(edges)}
        await Outlet(behind, NodeStats("branch", Kind.TRANSFORM, "")).send(batch)
        return [edge.receive_nowait().with_suffix(f"#{number}") for number, edge in enumerate(edges)]

    async def put(
        self, node: NodeStats, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        """Store dead letters and settle; part of the engine's `DeadLetterQueue`."""
        await self._route.put(node, batch, failures, attempts)
        keys = batch.keys.to_list()
        self.died += [(node.name, keys[index]) for index, _ in failures]

    async def resettle(self, node: NodeStats, batch: Batch) -> None:
        """Settle what has died in an earlier attempt; part of the engine's `DeadLetterQueue`."""
        await self._route.resettle(node, batch)
        self.died += [(node.name, key) for key in batch.keys.to_list()]

    def _runtime(self, node: str, kind: Kind, component: Component[Any], policy: RetryPolicy) -> Runtime:
        planned = PlanNode(node, stand_in(component, kind, node), NoParams())
        died = frozenset(self.dead_keys.get(node, ()))
        health = self._health.setdefault(node, NodeHealth())
        return Runtime(planned, component, NodeStats(node, kind, ""), policy, health, dead_keys=died)


def _all_of(edge: Edge) -> list[Batch]:
    return [edge.receive_nowait() for _ in range(edge.held)]
