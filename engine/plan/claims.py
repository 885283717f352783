"""Nodes that get into each other's way: two that read the standard input, a file replaced by one of two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from engine.config.model import NodeConfig
from engine.config.problems import Problems
from engine.contract.claims import Claim
from engine.errors import ConfigError, Problem
from engine.plan.model import Plan, PlanNode

__all__ = ["check_claims", "check_together"]


def check_claims(nodes: Sequence[tuple[PlanNode, NodeConfig]], problems: Problems) -> None:
    """Report nodes of one pipeline that use one thing which one of them needs alone."""
    for place, message, remedy in _clashes((node.name, node) for node, _ in nodes):
        problems.add(nodes[place][1].component_place, message, remedy)


def check_together(plans: Iterable[Plan]) -> None:
    """Refuse pipelines that run at the same time and get into each other's way.

    Raises:
        ConfigError: names the nodes.
    """
    named = [(f"{plan.pipeline}.{node.name}", node) for plan in plans for node in plan.nodes]
    remedy = "run one pipeline after the other"
    found = [Problem(message, hint=remedy) for _, message, _ in _clashes(named)]
    if found:
        raise ConfigError(found)


def _clashes(nodes: Iterable[tuple[str, PlanNode]]) -> Iterator[tuple[int, str, str]]:
    """The index of a node that clashes with one before it, what is wrong, and the remedy."""
    before: dict[str, list[tuple[str, Claim]]] = {}
    for index, (name, node) in enumerate(nodes):
        claim = node.spec.claim_of(node.params)
        if claim is None:
            continue
        users = before.setdefault(_place(node, claim), [])
        for other, earlier in users:
            alone = claim if claim.alone else earlier
            if alone.alone:
                same = f"so does `{name}`" if claim.use == earlier.use else f"`{name}` {claim.use}"
                yield index, f"`{other}` {earlier.use} already, and {same}: {alone.alone}", alone.remedy
                break
        users.append((name, claim))


def _place(node: PlanNode, claim: Claim) -> str:
    through = node.connection
    return json.dumps([claim.place, dict(through.values) if through else None], sort_keys=True, default=str)
