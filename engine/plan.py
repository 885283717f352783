"""The plan: a validated, immutable graph of nodes, compiled from the configuration.

Pure: nothing is opened, started or awaited here. A plan is compiled in milliseconds and can be compared,
stored (as its documents) and drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from pydantic import BaseModel

from engine.batch import JsonValue
from engine.binding import ConnectionRef, bind
from engine.component import ComponentSpec, Kind
from engine.config.model import (
    FileConfig,
    NodeConfig,
    NodeOptions,
    OnStall,
    PipelineConfig,
    RetryOptions,
    Settings,
)
from engine.config.pipeline import FORWARD_NODE
from engine.config.problems import Problems
from engine.errors import ConfigError
from engine.identity import difference, identity_doc, identity_hash, operational_doc
from engine.registry import Registry
from engine.topology import check_topology, ordered

__all__ = [
    "ConnectionRef",
    "DeadLetterSettings",
    "NodeCheck",
    "NodeOptions",
    "OnStall",
    "Plan",
    "PlanNode",
    "RetryOptions",
    "Settings",
    "compile_file",
    "compile_plan",
    "difference",
]


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A node: a component with its parameters, and the nodes it takes its batches from.

    `params` is not shown by `repr`: it may hold values from the environment.
    """

    name: str
    spec: ComponentSpec = field(repr=False)
    params: BaseModel = field(repr=False)
    connection: ConnectionRef | None = None
    inputs: tuple[str, ...] = ()
    options: NodeOptions = field(default_factory=NodeOptions)

    @property
    def kind(self) -> Kind:
        """Source, transform or sink."""
        return self.spec.kind

    @property
    def needs_sandbox(self) -> str:
        """The embedded service this node needs (`s3`, `llm`, `ingest`), "" when none."""
        return self.spec.sandbox if self.connection is not None and self.connection.sandbox else ""

    def connection_model(self, sandbox: Mapping[str, JsonValue] | None = None) -> BaseModel | None:
        """The validated connection to build the component with; None when it takes none.

        Args:
            sandbox: what the embedded service said about itself; used (and then needed) when the
                connection is a sandbox. It wins over fields that are given too.
        """
        model = self.spec.connection
        if model is None:
            return None
        values = dict(self.connection.values) if self.connection else {}
        if self.needs_sandbox:
            known = {name for key, info in model.model_fields.items() for name in (key, info.alias) if name}
            values |= {key: value for key, value in (sandbox or {}).items() if key in known}
        return model.model_validate(values)


NodeCheck: TypeAlias = Callable[[NodeConfig, PlanNode, Problems], None]
"""A check of one node beyond the usual ones; what it finds goes into the problems."""


@dataclass(frozen=True, slots=True)
class DeadLetterSettings:
    """The budget of dead letters, and the sink they are forwarded to once they are stored.

    At most one of `max_count` (records) and `max_share` (0 to 1, of the records read or made by fan-outs) is
    set. `forward` is a sink without inputs, called `dead_letters.forward`.
    """

    max_count: int | None = None
    max_share: float | None = None
    forward: PlanNode | None = None

    @property
    def limited(self) -> bool:
        """True when there is a budget."""
        return self.max_count is not None or self.max_share is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline, ready to run.

    Attributes:
        pipeline: its name.
        nodes: in topological order; among nodes that do not depend on each other, in the file's order.
        identity: SHA-256 (hex) of `identity_doc` as canonical JSON. Runs are resumed under the same one.
        identity_doc: nodes, edges, components and the parameters that alter records; JSON-safe. Values
            from the environment stand there as a digest, secrets not at all.
        operational_doc: what may change between attempts of a run: endpoints, limits, concurrency,
            retries, budgets; JSON-safe, no secrets.
        settings: what holds for the pipeline as a whole.
        dead_letters: their budget and forwarding.
        params: the run parameters in effect, JSON-safe, without those from the environment.
    """

    pipeline: str
    nodes: tuple[PlanNode, ...]
    identity: str = ""
    identity_doc: JsonValue = field(default=None, repr=False)
    operational_doc: JsonValue = field(default=None, repr=False)
    settings: Settings = field(default_factory=Settings)
    dead_letters: DeadLetterSettings = field(default_factory=DeadLetterSettings)
    params: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def sources(self) -> tuple[PlanNode, ...]:
        """The nodes that records come from."""
        return tuple(node for node in self.nodes if node.kind is Kind.SOURCE)

    @property
    def sinks(self) -> tuple[PlanNode, ...]:
        """The nodes that records leave through."""
        return tuple(node for node in self.nodes if node.kind is Kind.SINK)

    @property
    def sandbox_services(self) -> frozenset[str]:
        """The embedded services this plan needs, forwarding of dead letters included."""
        forward = self.dead_letters.forward
        nodes = (*self.nodes, forward) if forward else self.nodes
        return frozenset(node.needs_sandbox for node in nodes if node.needs_sandbox)

    def node(self, name: str) -> PlanNode:
        """The node of that name. Raises KeyError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def downstream(self, name: str) -> tuple[PlanNode, ...]:
        """The nodes that take their batches from the node of that name, in topological order."""
        return tuple(node for node in self.nodes if name in node.inputs)


def compile_plan(
    pipeline: PipelineConfig, file: FileConfig, registry: Registry, *, taps: Collection[str] = ()
) -> Plan:
    """Compile one pipeline.

    Args:
        taps: nodes whose output the caller takes itself, so that they need nothing downstream.

    Raises:
        ConfigError: with every problem of the file and of this pipeline.
    """
    problems = Problems()
    problems.extend(file.problems)
    plan = _compile(pipeline, file, registry, taps, problems)
    if plan is None or problems:
        raise ConfigError(problems.all())
    return plan


def compile_file(file: FileConfig, registry: Registry, *, check: NodeCheck | None = None) -> dict[str, Plan]:
    """Compile every pipeline of a file, in its order.

    Args:
        check: called for every node that can be understood, forwarding sinks included.

    Raises:
        ConfigError: with every problem of the file and of all its pipelines.
    """
    problems = Problems()
    problems.extend(file.problems)
    plans = {
        name: _compile(pipeline, file, registry, (), problems, check)
        for name, pipeline in file.pipelines.items()
    }
    if problems:
        raise ConfigError(problems.all())
    return {name: plan for name, plan in plans.items() if plan is not None}


def _compile(
    pipeline: PipelineConfig,
    file: FileConfig,
    registry: Registry,
    taps: Collection[str],
    problems: Problems,
    check: NodeCheck | None = None,
) -> Plan | None:
    """None only when there is something in `problems`."""
    sound = check_topology(pipeline.nodes, pipeline.unreadable, taps, problems)
    bound = {node.name: (_node(node, file, registry, problems), node) for node in pipeline.nodes}
    forward_config = pipeline.dead_letters.forward
    forward = _node(forward_config, file, registry, problems) if forward_config else None
    whole = {name: (node, config) for name, (node, config) in bound.items() if node is not None}
    if check is not None:
        forwarding = [(forward, forward_config)] if forward is not None and forward_config is not None else []
        for node, config in (*whole.values(), *forwarding):
            check(config, node, problems)
    if not sound or len(whole) < len(bound) or (forward_config and forward is None):
        return None
    order = ordered({name: list(node.inputs) for name, (node, _) in whole.items()})
    dead_letters = DeadLetterSettings(
        pipeline.dead_letters.max_count, pipeline.dead_letters.max_share, forward
    )
    identity = identity_doc(whole)
    everything = {**whole, FORWARD_NODE: (forward, forward_config)} if forward and forward_config else whole
    return Plan(
        pipeline=pipeline.name,
        nodes=tuple(whole[name][0] for name in order),
        identity=identity_hash(identity),
        identity_doc=identity,
        operational_doc=operational_doc(everything, file.connections, pipeline.settings, dead_letters),
        settings=pipeline.settings,
        dead_letters=dead_letters,
        params=pipeline.values,
    )


def _node(config: NodeConfig, file: FileConfig, registry: Registry, problems: Problems) -> PlanNode | None:
    binding = bind(config, file.connections, registry, problems)
    if binding is None:
        return None
    return PlanNode(
        name=config.name,
        spec=binding.spec,
        params=binding.params,
        connection=binding.connection,
        inputs=tuple(given.name for given in config.inputs),
        options=config.options,
    )
