"""Send some records through the transforms of a plan, and collect the output of each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.contract.batch import Batch, Drop
from engine.contract.component import ComponentSpec, Kind, NoParams, Receipt, Sink, Transform
from engine.contract.types import Record
from engine.execution.engine import Engine
from engine.plan.model import DeadLetterSettings, Plan, PlanNode
from engine.state.records import DeadLetterFilter
from engine.trial import Reading, with_counting_sinks, with_reading

_TAP = "~"


@dataclass(slots=True)
class Sampled:
    """The result of a sample: records by node, the number read, and the number of dead records by node.

    `given`: input of the nodes that read branches of others.
    """

    output: Mapping[str, list[Record]] = field(default_factory=dict)
    given: Mapping[str, list[Record]] = field(default_factory=dict)
    read: int = 0
    died: Mapping[str, int] = field(default_factory=dict)
    error: str = ""


class _Tap(Sink[NoParams]):
    """Collects the output of a node."""

    inline = True

    def __init__(self, kept: list[Record]) -> None:
        super().__init__(NoParams())
        self._kept = kept

    async def write(self, batch: Batch) -> Receipt:
        self._kept += batch.records
        return Receipt()


class _NotAsked(Transform[NoParams]):
    """Replaces a node that pays, and emits nothing."""

    def apply(self, batch: Batch) -> Batch:
        return batch.outcomes([Drop("not asked: it pays for its answers")] * len(batch))


async def sample_through(plan: Plan, engine: Engine, size: int) -> Sampled:
    """Run the first `size` records of each source through the plan; sinks and paying nodes are left out.

    Never raises if the run fails: `error` has the reason, and the nodes before the failure have their output.
    """
    counting, _ = with_counting_sinks(with_reading(plan, Reading(limit=size)))
    kept: dict[str, list[Record]] = {node.name: [] for node in plan.nodes if plan.downstream(node.name)}
    given: dict[str, list[Record]] = {node.name: [] for node in plan.nodes if node.input_branches}
    taps = [_tap(f"{name}{_TAP}", (name,), records) for name, records in kept.items()]
    taps += [
        replace(_tap(f"{_TAP}{node.name}", node.inputs, given[node.name]), input_branches=node.input_branches)
        for node in plan.nodes
        if node.name in given
    ]
    tapped = replace(
        counting,
        nodes=(
            *(node.replaced_by(_NotAsked(NoParams())) if node.pays else node for node in counting.nodes),
            *taps,
        ),
        dead_letters=DeadLetterSettings(),
        settings=replace(counting.settings, require_match=False, outage_limit=0),
    )
    report = await engine.run(tapped)
    letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
    died = Counter(letter.node for letter in letters)
    return Sampled(kept, given, report.tally.read, dict(died), report.error)


def _tap(name: str, inputs: tuple[str, ...], kept: list[Record]) -> PlanNode:
    spec = ComponentSpec("tap", Kind.SINK, lambda params, connection: _Tap(kept))
    return PlanNode(name, spec, NoParams(), None, inputs)
