"""Check for nodes that interfere: readers of the standard input, and sinks that delete what others write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from engine.config.model import NodeConfig
from engine.config.problems import Problems
from engine.contract.claims import Claim
from engine.errors import ConfigError, Problem
from engine.plan.model import Plan, PlanNode


def check_claims(nodes: Sequence[tuple[PlanNode, NodeConfig]], problems: Problems) -> None:
    """Report nodes of one pipeline that use the same resource if one of them needs it exclusively."""
    for place, message, remedy, _ in _clashes((node.name, node) for node, _ in nodes):
        problems.add(nodes[place][1].component_place, message, remedy)


def check_together(plans: Iterable[Plan]) -> None:
    """Reject pipelines that interfere when they run concurrently.

    Raises:
        ConfigError: names the nodes.
    """
    if found := clashes_together(plans):
        raise ConfigError(found)


def clashes_together(plans: Iterable[Plan]) -> list[Problem]:
    """Return the problems of running these pipelines concurrently."""
    named = [(f"{plan.pipeline}.{node.name}", node) for plan in plans for node in plan.nodes]
    # even one after the other, a second writer finds what the first has written
    return [
        Problem(message, hint=remedy if both_write else "run one pipeline after the other")
        for _, message, remedy, both_write in _clashes(named)
    ]


def own_output(plans: Iterable[Plan]) -> list[Problem]:
    """Return warnings about pipelines that read what their earlier runs have written."""
    return [
        Problem(
            f"`{plan.pipeline}.{sink.name}` {written.use}, which `{source.name}` reads: each run reads the "
            "records of earlier runs again",
            hint="write to another place, or exclude it from reading",
        )
        for plan in plans
        for (sink, written), (source, read) in product(_claims(plan), repeat=2)
        if read.reads
        and written.adds
        and _located(source, read)[0] == _located(sink, written)[0]
        and read.reads(written.adds)
    ]


def replaced_by_changes(plans: Iterable[Plan]) -> list[Problem]:
    """Return warnings about sinks that replace all records by those that are new since the last run."""
    return [
        Problem(
            f"`{plan.pipeline}.{sink.name}` replaces all that is there (`mode: replace`), but `{node.name}` "
            "passes on only what earlier runs have not delivered: each run deletes what they delivered",
            hint="use `mode: append`, or let each run read everything",
        )
        for plan in plans
        for sink, node in product(plan.sinks, plan.nodes)
        if sink.replaces and node.name in plan.ancestors(sink.name) and node.spec.keeps_bookmarks(node.params)
    ]


def _claims(plan: Plan) -> list[tuple[PlanNode, Claim]]:
    return [(node, claim) for node in plan.nodes if (claim := node.spec.claim_of(node.params)) is not None]


def _clashes(nodes: Iterable[tuple[str, PlanNode]]) -> Iterator[tuple[int, str, str, bool]]:
    """Yield the index of each clashing node, the problem, the remedy, and whether both write."""
    before: list[tuple[str, PlanNode, Claim]] = []
    for index, (name, node) in enumerate(nodes):
        claim = node.spec.claim_of(node.params)
        if claim is None:
            continue
        for other, user, earlier in before:
            if alone := _exclusive((user, earlier), (node, claim)):
                same = f"so does `{name}`" if claim.use == earlier.use else f"`{name}` {claim.use}"
                message = f"`{other}` {earlier.use} already, and {same}: {alone.alone}"
                both_write = all(one.use.startswith("writes") for one in (earlier, claim))
                yield index, message, alone.remedy, both_write
                break
        before.append((name, node, claim))


def _exclusive(one: tuple[PlanNode, Claim], other: tuple[PlanNode, Claim]) -> Claim | None:
    """Return the claim that does not allow the other, if any."""
    (server, place), (other_server, other_place) = _located(*one), _located(*other)
    if server != other_server:
        return None
    pairs = ((other[1], one[1]), (one[1], other[1]))
    if place == other_place:
        return next((claim for claim, _ in pairs if claim.alone), None)
    return next((one for one, other in pairs if one.deletes and other.adds and one.deletes(other.adds)), None)


def _located(node: PlanNode, claim: Claim) -> tuple[object, str]:
    values = dict(node.connection.values) if node.connection else None
    return (values, claim.place) if claim.located is None or values is None else claim.located(values)
