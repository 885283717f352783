"""The graph of a pipeline: inputs, cycles, reachability, order, and colliding keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from engine.config.model import InputConfig, NodeConfig
from engine.config.problems import Problems, listed, unknown
from engine.contract.component import Kind
from engine.plan.branches import KnownBranches, check_branches

Edges: TypeAlias = Mapping[str, Sequence[str]]
"""Each node with the nodes that feed it."""


def check_topology(
    nodes: Sequence[NodeConfig],
    unreadable: Collection[str],
    taps: Collection[str],
    branches: KnownBranches,
    problems: Problems,
) -> bool:
    """Report all problems of the graph; return whether it is valid and can be ordered.

    Args:
        unreadable: nodes that are invalid or have an invalid input. If there are any, the graph is unknown,
            so only the names of inputs are checked.
        taps: nodes whose output the caller consumes.
        branches: the branches of the valid nodes.
    """
    known = [*(node.name for node in nodes), *unreadable]
    by_name = {node.name: node for node in nodes}
    valid = True
    for node in nodes:
        for given in node.inputs:
            if given.name not in known:
                problems.add(given.place, unknown("input", given.name, known))
                valid = False
    if unreadable or not valid:
        return False
    if not check_branches(nodes, branches, taps, problems):
        return False
    edges = {node.name: [given.name for given in node.inputs] for node in nodes}
    cycle = find_cycle(edges)
    if cycle:
        place = by_name[cycle[0]].inputs[0].place
        problems.add(place, f"the nodes form a cycle: {' → '.join(f'`{name}`' for name in cycle)}")
        return False
    order = [by_name[name] for name in ordered(edges)]
    reached = _check_reachable(nodes, order, problems)
    taken = _check_taken(nodes, taps, problems)
    return _check_keys(order, branches, problems) and reached and taken


def find_cycle(edges: Edges) -> list[str]:
    """Return a cycle in flow direction, its first node repeated at the end, or an empty list."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1][:-1]
        first = ring.index(min(ring, key=list(edges).index))  # begin with the node that is first in the file
        return [*ring[first:], *ring[: first + 1]]
    return []


def ordered(edges: Edges) -> list[str]:
    """Return the nodes in topological order, with ties in file order."""
    waiting = {name: set(inputs) for name, inputs in edges.items()}
    order: list[str] = []
    while waiting:
        following = next(name for name, inputs in waiting.items() if not inputs)
        del waiting[following]
        order.append(following)
        for inputs in waiting.values():
            inputs.discard(following)
    return order


def _check_reachable(nodes: Sequence[NodeConfig], order: Sequence[NodeConfig], problems: Problems) -> bool:
    """Check that every transform and sink has a source upstream."""
    reached: set[str] = set()
    for node in order:
        if node.kind is Kind.SOURCE or any(given.name in reached for given in node.inputs):
            reached.add(node.name)
    valid = True
    for node in nodes:
        if node.name not in reached:
            valid = False
            hint = "" if node.inputs else "its `input` names no node"
            problems.add(node.place, f"no source reaches the {node.kind} `{node.name}`", hint)
    return valid


def _check_taken(nodes: Sequence[NodeConfig], taps: Collection[str], problems: Problems) -> bool:
    """Check that the output of every source and transform is consumed."""
    taken = {given.name for node in nodes for given in node.inputs} | set(taps)
    valid = True
    for node in nodes:
        if node.kind is not Kind.SINK and node.name not in taken:
            message = f"no node consumes the output of the {node.kind} `{node.name}`"
            problems.add(node.place, message, f"add a sink after it, or name it in one: input: {node.name}")
            valid = False
    return valid


Way: TypeAlias = tuple[str, tuple[str, ...]]
"""A source, and the key suffixes on the path from it."""
Choices: TypeAlias = Mapping[str, frozenset[str]]
"""The branches of exclusive routers through which records may have come."""


def _check_keys(order: Sequence[NodeConfig], branches: KnownBranches, problems: Problems) -> bool:
    """Check that records of one source that reach a node on two paths have different keys there.

    Follows the paths from each source; if two inputs of a node have the same path, the keys collide, unless
    the records have come through different branches of an exclusive router.
    """
    arriving: dict[str, dict[Way, Choices]] = {}
    valid = True
    for node in order:
        name = node.name
        ways: dict[Way, list[tuple[InputConfig, Choices]]] = {}
        for given in node.inputs:
            for way, choices in arriving[given.name].items():
                ways.setdefault(way, []).append((given, _chosen(given, branches, choices)))
        for way, found in sorted(ways.items()):
            collision = _collision(found)
            if collision is not None:
                valid = False
                message = f"the records of `{way[0]}` reach `{name}` with the same keys twice"
                hint = f"give {listed(collision[1:])} or another node of that branch a `key_suffix`"
                problems.add(node.place, f"{message}, through {listed(collision)}", hint)
                break
        suffix = node.options.key_suffix
        merged: dict[Way, Choices] = {
            (source, (*path, suffix) if suffix else path): _merged([choices for _, choices in found])
            for (source, path), found in ways.items()
        }
        own: dict[Way, Choices] = {(name, (suffix,) if suffix else ()): {}}
        arriving[name] = own if node.kind is Kind.SOURCE else merged
    return valid


def _chosen(given: InputConfig, branches: KnownBranches, choices: Choices) -> Choices:
    router = branches.get(given.name)
    if not given.branch or router is None or not router.exclusive:
        return choices
    return {**choices, given.name: frozenset((given.branch,))}


def _collision(found: Sequence[tuple[InputConfig, Choices]]) -> list[str] | None:
    """Return two inputs that may bring the same record."""
    for index, (other, choices) in enumerate(found):
        for given, more in found[index + 1 :]:
            if not any(not choices[router] & more[router] for router in choices.keys() & more.keys()):
                return [other.text, given.text]
    return None


def _merged(several: Sequence[Choices]) -> Choices:
    """Merge these choices, so that paths that split and merge count as one."""
    routers = set(several[0]).intersection(*several[1:])
    return {
        router: frozenset(branch for choices in several for branch in choices[router]) for router in routers
    }
