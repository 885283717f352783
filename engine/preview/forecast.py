"""Forecast a run from listed sources, a sample through the transforms, estimates and targets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from stat import S_ISDIR
from typing import Any

import anyio

from engine.contract.component import Component, Context, Kind, Sink, Source
from engine.contract.planning import DescribesTarget, Estimate, EstimatesCost
from engine.contract.types import JsonValue, Record
from engine.dead_letters.queue import as_json
from engine.errors import EngineError, TransientError
from engine.execution.engine import Engine
from engine.execution.ledger import SourceBookmarks
from engine.plan.model import Plan, PlanNode
from engine.preview.listing import Listing, list_source
from engine.preview.sampling import Sampled, sample_through
from engine.redaction import without_credentials

_NAMES = {bool: "boolean", int: "integer", float: "number", str: "text", list: "list", dict: "mapping"}
_MAX_FIELDS = 200


@dataclass(slots=True)
class NodeForecast:
    """The forecast for one node.

    Attributes:
        records: number of output records, scaled from the sample; None when the size of the input is unknown.
        fields: output fields by name; empty when no sampled record reached the node.
        listing: what a source would read.
        estimate: usage and cost of a transform.
        target: where a sink writes, and its current content.
        problem: why something is unknown.
        exact: `records` is from the listing, not an estimate.
        pays: its answers cost money.
        budget_usd: limit of the cost of its answers; None without a limit.
    """

    name: str
    kind: Kind
    component: str
    inputs: tuple[str, ...] = ()
    records: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    listing: Listing | None = None
    estimate: Estimate | None = None
    target: str = ""
    problem: str = ""
    exact: bool = False
    pays: bool = False
    budget_usd: float | None = None

    @property
    def over_budget(self) -> bool:
        """Whether the run would stop at its budget."""
        cost = self.estimate.cost_usd if self.estimate is not None else None
        return cost is not None and self.budget_usd is not None and cost > self.budget_usd

    def to_json(self) -> dict[str, JsonValue]:
        """Return the forecast as JSON-safe values."""
        document: dict[str, JsonValue] = {
            "kind": str(self.kind),
            "component": self.component,
            "inputs": list(self.inputs),
            "records": self.records,
            "exact": self.exact,
            "fields": dict(self.fields),
        }
        if self.listing is not None:
            document["listing"] = self.listing.to_json()
        if self.estimate is not None:
            document["estimate"] = asdict(self.estimate)
        document |= {key: text for key, text in (("target", self.target), ("problem", self.problem)) if text}
        return {**document, "pays": self.pays, "over_budget": self.over_budget}


@dataclass(slots=True)
class Forecast:
    """The forecast for a run of a pipeline; `sampled`: number of records read for it."""

    pipeline: str
    nodes: list[NodeForecast]
    sampled: int
    died: Mapping[str, int]
    sample_error: str = ""

    @property
    def cost_usd(self) -> float | None:
        """The expected total cost of all nodes; None when none is known."""
        known = [one.estimate.cost_usd for one in self.nodes if one.estimate is not None]
        prices = [cost for cost in known if cost is not None]
        return sum(prices) if prices else None

    @property
    def unpriced(self) -> list[str]:
        """The nodes that pay for their answers at an unknown price."""
        return [
            one.name
            for one in self.nodes
            if one.pays and (one.estimate is None or one.estimate.cost_usd is None)
        ]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the forecast as JSON-safe values."""
        return {
            "sampled_records": self.sampled,
            "died_in_sample": dict(self.died),
            "sample_error": self.sample_error,
            "cost_usd": self.cost_usd,
            "unpriced": list(self.unpriced),
            "nodes": {one.name: one.to_json() for one in self.nodes},
        }


async def forecast(plan: Plan, engine: Engine, *, sample: int = 20, seconds: float = 10.0) -> Forecast:
    """Forecast a run of the plan.

    Args:
        engine: its store keeps the sample and has the bookmarks of earlier runs.
        sample: number of records to read from each source; with 0 no fields are known.
        seconds: timeout of each listing and each query of a target.

    Raises:
        EngineError: an embedded service cannot be started.
    """
    await engine.provide(plan.sandbox_services, plan.warehouse)
    nodes = {node.name: _blank(node) for node in plan.nodes}
    for node in plan.nodes:
        await _look(node, nodes[node.name], engine, plan, seconds)
    sampled = await sample_through(plan, engine, sample) if sample else Sampled()
    for node in plan.nodes:
        await _expect(node, nodes, sampled, engine, plan, sample)
    return Forecast(plan.pipeline, list(nodes.values()), sampled.read, sampled.died, sampled.error)


def _blank(node: PlanNode) -> NodeForecast:
    budget = getattr(node.params, "budget_usd", None)
    inputs = tuple(node.input_names)
    return NodeForecast(node.name, node.kind, node.spec.name, inputs, pays=node.pays, budget_usd=budget)


async def _look(node: PlanNode, found: NodeForecast, engine: Engine, plan: Plan, seconds: float) -> None:
    """List a source, or describe a sink's target."""
    if node.kind is Kind.TRANSFORM:
        return
    with _noting(found):
        component = _built(node, engine, plan)
        if isinstance(component, Source):
            async with component:
                found.listing = await list_source(component, seconds)
        elif isinstance(component, Sink):
            found.target = await _target(node, component, seconds)


@contextmanager
def _noting(found: NodeForecast) -> Iterator[None]:
    """Note why a connector cannot answer; the forecast of the other nodes continues."""
    try:
        yield
    except EngineError as error:
        found.problem = without_credentials(str(error))
    except Exception as error:  # noqa: BLE001 - boundary to a connector's code, which may raise anything
        found.problem = without_credentials(f"{type(error).__name__}: {error}")


def _built(node: PlanNode, engine: Engine, plan: Plan) -> Component[Any]:
    component = node.spec.factory(node.params, engine.connect(node))
    bookmarks = SourceBookmarks(engine.store, plan.pipeline, node.name)
    component.ctx = Context(pipeline=plan.pipeline, node=node.name, bookmarks=bookmarks)
    return component


async def _target(node: PlanNode, sink: Sink[Any], seconds: float) -> str:
    if isinstance(sink, DescribesTarget):
        with anyio.move_on_after(seconds):
            return await sink.describe_target()
        raise TransientError(f"no answer within {seconds:g} s: check the network, or raise --timeout")
    named = [
        f"{name} {value}"
        for name in ("path", "table", "model", "dataset", "bucket", "url")
        if isinstance(value := getattr(node.params, name, None), str) and value
    ]
    if columns := getattr(node.params, "partition_by", None):
        named.append(f"partitions by {', '.join(columns)}")
    if mode := getattr(node.params, "mode", ""):
        named.append(f"mode {mode}")
    text = without_credentials(", ".join(named))
    path = getattr(node.params, "path", None)
    if isinstance(path, str) and path != "-" and "://" not in path:
        text += await anyio.to_thread.run_sync(_what_is_there, path)
    return text


def _what_is_there(path: str) -> str:
    try:
        found = os.stat(path)
        return ": exists already" if S_ISDIR(found.st_mode) else f": {found.st_size:,} bytes exist already"
    except OSError:
        return ": not there yet"


def _to_read(listing: Listing | None, output: Sequence[Record], sample: int) -> tuple[int | None, bool]:
    """Return how many records a source has, and whether that is exact."""
    if listing is None or listing.records is not None:
        return (None, False) if listing is None else (listing.records, listing.complete)
    if len(output) < sample:
        return len(output), True  # the sample was the whole input
    if not listing.nbytes or not output:
        return None, False
    mean = sum(as_json(record)[1] for record in output) / len(output)
    return max(len(output), round(listing.nbytes / max(mean, 1))), False


async def _expect(
    node: PlanNode,
    nodes: Mapping[str, NodeForecast],
    sampled: Sampled,
    engine: Engine,
    plan: Plan,
    sample: int,
) -> None:
    """Scale the results of the sample, and estimate a node's cost."""
    found = nodes[node.name]
    output = sampled.output.get(node.name, ())
    found.fields = _fields_of(output)
    if node.kind is Kind.SOURCE:
        found.records, found.exact = _to_read(found.listing, output, sample)
        return
    before: list[Record] = [one for name in node.inputs for one in sampled.output.get(name, ())]
    given = sampled.given.get(node.name, before)
    counts = [nodes[name].records for name in node.inputs]
    coming = None if any(count is None for count in counts) else sum(count or 0 for count in counts)
    if coming is not None and before and given is not before:  # it receives only some branches of its inputs
        coming = round(coming * len(given) / len(before))
    if node.kind is Kind.SINK or (found.pays and not output):
        found.records = coming
    elif coming is not None and given:
        found.records = round(coming * len(output) / len(given))
    if node.kind is not Kind.TRANSFORM or not given or coming is None:
        return
    with _noting(found):
        component = _built(node, engine, plan)
        if isinstance(component, EstimatesCost):
            found.estimate = await component.estimate(given, coming)


def _fields_of(records: Sequence[Record]) -> Mapping[str, str]:
    """Return the types of each field: `number`, `integer | text`, with `?` where it is null or missing."""
    kinds: dict[str, dict[str, None]] = {}
    present: dict[str, int] = {}
    for record in records:
        value: Any = as_json(record)[0]
        for name, item in (value if isinstance(value, dict) else {"": value}).items():
            if name in kinds or len(kinds) < _MAX_FIELDS:
                seen = kinds.setdefault(name, {})
                if item is not None:
                    seen[_NAMES.get(type(item), type(item).__name__)] = None
                    present[name] = present.get(name, 0) + 1
    return {
        name: (" | ".join(seen) or "null") + ("?" if seen and present[name] < len(records) else "")
        for name, seen in kinds.items()
    }
