"""Plans with a router, compiled as from a file, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.config import load_mapping
from engine.contract.component import Component, ComponentSpec, Kind, NoParams, component
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry
from tests.unit.idle import IdleSink, IdleSource


@component(Kind.SOURCE, "numbers")
class Numbers(IdleSource[NoParams]):
    """Stands for a source of memory."""


@component(Kind.SINK, "keep")
class Keep(IdleSink[NoParams]):
    """Stands for a sink of memory."""


def plan_with(nodes: Mapping[str, Any], components: Mapping[str, Component[Any]] | None = None) -> Plan:
    """Compile nodes, and put these components in the place of those of the same node.

    Raises:
        ConfigError: the nodes do not fit together.
    """
    mapping = {"version": 1, "pipelines": {"test": {"nodes": nodes, "dead_letters": {"max": "100%"}}}}
    plan = compile_file(load_mapping(mapping, environ={}), Registry.installed().including(Numbers, Keep))[
        "test"
    ]
    made = [
        replace(node, spec=_spec_of(node.spec, components[node.name]))
        if components and node.name in components
        else node
        for node in plan.nodes
    ]
    return replace(plan, nodes=tuple(made))


def _spec_of(spec: ComponentSpec, given: Component[Any]) -> ComponentSpec:
    return replace(spec, factory=lambda params, connection: given)
