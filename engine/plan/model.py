"""The plan as values: nodes, settings, and the graph they form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from pydantic import BaseModel

from engine.config.model import NodeConfig, NodeOptions, Settings
from engine.config.problems import Problems
from engine.contract.component import Component, ComponentSpec, Kind, Params
from engine.contract.types import JsonValue
from engine.service.declared import Declared


@dataclass(frozen=True, slots=True)
class ConnectionRef:
    """The connection that a node uses.

    Args:
        name: its entry under `connections:`; "" when the component uses the defaults of its model.
        values: the given fields, without those that are empty or `sandbox`. They may be secret, so `repr`
            hides them.
        sandbox: use the embedded service named by the component's spec.
    """

    name: str
    values: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    sandbox: bool = False


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A node: a component with its parameters and inputs.

    `repr` hides `params`, which may hold values from the environment.
    """

    name: str
    spec: ComponentSpec = field(repr=False)
    params: BaseModel = field(repr=False)
    connection: ConnectionRef | None = None
    inputs: tuple[str, ...] = ()
    options: NodeOptions = field(default_factory=NodeOptions)
    input_branches: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """For inputs with branches, the branches that this node reads."""

    @property
    def kind(self) -> Kind:
        """Source, transform or sink."""
        return self.spec.kind

    @property
    def replaces(self) -> bool:
        """Whether it is a sink that replaces all existing records by those of a run."""
        return self.kind is Kind.SINK and getattr(self.params, "mode", None) == "replace"

    @property
    def input_names(self) -> list[str]:
        """The inputs as written, including branches: `by_country.domestic`."""
        return [
            f"{name}.{branch}" if branch else name
            for name in self.inputs
            for branch in self.input_branches.get(name, ("",))
        ]

    @property
    def needs_sandbox(self) -> str:
        """The embedded service that this node needs (`s3`, `llm`, `ingest`), or ""."""
        return self.spec.sandbox if self.connection is not None and self.connection.sandbox else ""

    @property
    def pays(self) -> bool:
        """Whether its answers cost money; an embedded model costs nothing."""
        params = self.params
        leaves = isinstance(params, Params) and params.leaves_sandbox
        return "budget_usd" in type(params).model_fields and (leaves or not self.needs_sandbox)

    def replaced_by(self, component: Component[Any]) -> PlanNode:
        """Return the node with another component, which needs no connection."""
        spec = replace(self.spec, connection=None, sandbox="", factory=lambda params, connection: component)
        return replace(self, spec=spec, connection=None)

    def connection_model(self, sandbox: Mapping[str, JsonValue] | None = None) -> BaseModel | None:
        """The validated connection of the component, or None.

        Args:
            sandbox: the address that the embedded service reported; required if the connection is a sandbox.
                It overrides given fields.
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
"""An additional check of one node, which adds to the problems."""


@dataclass(frozen=True, slots=True)
class DeadLetterSettings:
    """The limit of dead letters, and the sink that stored ones are forwarded to.

    At most one of `max_count` (records) and `max_share` (0 to 1, of the records read or created by fan-outs)
    is set. `implied`: the share is the default, not set in the file. `forward` is a sink without inputs,
    called `dead_letters.forward`.
    """

    max_count: int | None = None
    max_share: float | None = None
    implied: bool = False
    forward: PlanNode | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.max_count is not None or self.max_share is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled pipeline.

    Attributes:
        pipeline: its name.
        nodes: in topological order; among nodes that do not depend on each other, in the file's order.
        identity: SHA-256 (hex) of `identity_doc` as canonical JSON. A run resumes only with the same
            identity.
        identity_doc: nodes, edges, components and the parameters that alter records; JSON-safe. Values from
            the environment appear as digests, secrets are left out.
        operational_doc: what may change between attempts of a run: endpoints, limits, concurrency,
            retries, budgets; JSON-safe, no secrets.
        settings: settings of the whole pipeline.
        dead_letters: their budget and forwarding.
        params: the run parameters in effect, JSON-safe, without those from the environment.
        warehouse: the models that its file declares for the embedded warehouse, None without any.
        keep_newer: keep rows that others deliver while it runs; see `Context`.
    """

    pipeline: str
    nodes: tuple[PlanNode, ...]
    identity: str = ""
    identity_doc: JsonValue = field(default=None, repr=False)
    operational_doc: JsonValue = field(default=None, repr=False)
    settings: Settings = field(default_factory=Settings)
    dead_letters: DeadLetterSettings = field(default_factory=DeadLetterSettings)
    params: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))
    warehouse: Declared | None = None
    keep_newer: bool = False

    @property
    def every_node(self) -> tuple[PlanNode, ...]:
        """The nodes, and the sink that dead letters are forwarded to."""
        forward = self.dead_letters.forward
        return (*self.nodes, forward) if forward is not None else self.nodes

    @property
    def sources(self) -> tuple[PlanNode, ...]:
        """The source nodes."""
        return tuple(node for node in self.nodes if node.kind is Kind.SOURCE)

    @property
    def sinks(self) -> tuple[PlanNode, ...]:
        """The sink nodes."""
        return tuple(node for node in self.nodes if node.kind is Kind.SINK)

    @property
    def sandbox_services(self) -> frozenset[str]:
        """The embedded services that this plan needs, including those of forwarded dead letters."""
        return frozenset(node.needs_sandbox for node in self.every_node if node.needs_sandbox)

    def node(self, name: str) -> PlanNode:
        """Return the node of that name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def downstream(self, name: str) -> tuple[PlanNode, ...]:
        """Return the downstream nodes of that node, in topological order."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def makers(self) -> dict[str, list[Callable[..., Any]]]:
        """Return, by node, the methods that make the records that it is given; a sink passes them on."""
        by_name = {node.name: node for node in self.nodes}
        found: dict[str, list[Callable[..., Any]]] = {}
        for node in self.nodes:
            before = [by_name[name] for name in node.inputs]
            own = [one.spec.method for one in before if one.kind is not Kind.SINK]
            passed = [method for one in before if one.kind is Kind.SINK for method in found[one.name]]
            found[node.name] = list(dict.fromkeys([*filter(None, own), *passed]))
        return found

    def ancestors(self, name: str) -> frozenset[str]:
        """Return the names of all nodes whose records may reach that node."""
        found = set(self.node(name).inputs)
        for node in reversed(self.nodes):  # in topological order, so those behind a node are known already
            if node.name in found:
                found.update(node.inputs)
        return frozenset(found)
