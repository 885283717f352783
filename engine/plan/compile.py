"""The plan: a validated, immutable graph of nodes, compiled from the configuration.

Compiling opens, starts and awaits nothing and takes milliseconds. A plan can be compared, stored (as its
documents) and drawn.
"""

from __future__ import annotations

from collections.abc import Collection

from engine.config.model import FileConfig, NodeConfig, PipelineConfig
from engine.config.pipeline import FORWARD_NODE
from engine.config.problems import Problems, unknown
from engine.contract.component import Kind
from engine.errors import ConfigError
from engine.plan.binding import bind
from engine.plan.claims import check_claims
from engine.plan.identity import identity_doc, identity_hash, operational_doc
from engine.plan.model import DeadLetterSettings, NodeCheck, Plan, PlanNode
from engine.plan.topology import check_topology, ordered
from engine.registry import Registry
from engine.service.models import load_ingest_models

DEFAULT_SHARE = 0.6
"""Default limit: a run fails if a larger share of its records dies."""


def compile_plan(
    pipeline: PipelineConfig, file: FileConfig, registry: Registry, *, taps: Collection[str] = ()
) -> Plan:
    """Compile one pipeline.

    Args:
        taps: nodes whose output the caller consumes, so they need nothing downstream.

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
        check: called for every valid node, including forwarding sinks.

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
    """Return the plan; None only if `problems` has an entry."""
    bound = {node.name: (_node(node, file, registry, problems), node) for node in pipeline.nodes}
    branches = {
        name: node.spec.branches_of(node.params) for name, (node, _) in bound.items() if node is not None
    }
    valid = check_topology(pipeline.nodes, pipeline.unreadable, taps, branches, problems)
    forward_config = pipeline.dead_letters.forward
    forward = _node(forward_config, file, registry, problems) if forward_config else None
    whole = {name: (node, config) for name, (node, config) in bound.items() if node is not None}
    forwarding = [(forward, forward_config)] if forward is not None and forward_config is not None else []
    everywhere = [*whole.values(), *forwarding]
    check_claims(everywhere, problems)
    if check is not None:
        for node, config in everywhere:
            check(config, node, problems)
    if not valid or len(whole) < len(bound) or (forward_config and forward is None):
        return None
    order = ordered({name: list(node.inputs) for name, (node, _) in whole.items()})
    limits = pipeline.dead_letters
    implied = limits.max_count is None and limits.max_share is None
    share = DEFAULT_SHARE if implied else limits.max_share
    dead_letters = DeadLetterSettings(limits.max_count, share, implied, forward)
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
        warehouse=file.warehouse,
    )


def _node(config: NodeConfig, file: FileConfig, registry: Registry, problems: Problems) -> PlanNode | None:
    node = bind(config, file.connections, registry, problems)
    if node is not None and node.kind is Kind.SINK and node.spec.name == node.needs_sandbox == "ingest":
        _check_model(config, node, file, problems)
    return node


def _check_model(config: NodeConfig, node: PlanNode, file: FileConfig, problems: Problems) -> None:
    """Check that a model of the embedded service is installed or declared."""
    model = getattr(node.params, "model", None)
    place = config.arguments.get("model")
    if not isinstance(model, str) or place is None or place.failed:
        return
    if any(problem.path.startswith("warehouse.") for problem in file.problems):
        return  # which models it declares is not known then
    declared = file.warehouse.models() if file.warehouse is not None else ()
    names = [one.name for one in (*declared, *load_ingest_models())]
    name = model.partition("/")[0]
    if name.lower() not in {known.lower() for known in names}:
        problems.add(place.place, unknown("ingest model", name, names))
