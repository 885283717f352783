"""The graph of a pipeline: inputs, cycles, reachability, order, and colliding keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from engine.config.model import NodeConfig
from engine.config.problems import Problems, listed, unknown
from engine.contract.component import Kind

__all__ = ["check_topology", "find_cycle", "ordered"]

Edges: TypeAlias = Mapping[str, Sequence[str]]
"""Each node and the nodes it takes its batches from."""


def check_topology(
    nodes: Sequence[NodeConfig], unreadable: Collection[str], taps: Collection[str], problems: Problems
) -> bool:
    """Report all problems of the graph; return whether it is valid and can be ordered.

    Args:
        unreadable: nodes that could not be understood, or whose input could not: with one of them the
            graph is not known, so only the names of inputs are checked.
        taps: nodes whose output is taken by the caller.
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
    edges = {node.name: [given.name for given in node.inputs] for node in nodes}
    cycle = find_cycle(edges)
    if cycle:
        place = by_name[cycle[0]].inputs[0].place
        problems.add(place, f"the nodes form a cycle: {' → '.join(f'`{name}`' for name in cycle)}")
        return False
    reached = _check_reachable(nodes, problems)
    taken = _check_taken(nodes, taps, problems)
    return _check_keys(nodes, edges, problems) and reached and taken


def find_cycle(edges: Edges) -> list[str]:
    """Return a cycle in flow direction, its first node repeated at the end, or an empty list."""
    done: set[str] = set()
    for start in edges:
        trail: list[str] = []
        on_trail: set[str] = set()
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            name, index = stack.pop()
            if index == 0:
                if name in on_trail:
                    loop = [*trail[trail.index(name) :], name]
                    return _rotated(loop[::-1], list(edges))
                if name in done:
                    continue
                trail.append(name)
                on_trail.add(name)
            inputs = edges.get(name, ())
            if index < len(inputs):
                stack.append((name, index + 1))
                stack.append((inputs[index], 0))
            else:
                trail.pop()
                on_trail.discard(name)
                done.add(name)
    return []


def _rotated(loop: list[str], order: list[str]) -> list[str]:
    """The same cycle, beginning with the node that stands first in the file."""
    ring = loop[:-1]
    first = min(range(len(ring)), key=lambda index: order.index(ring[index]))
    ring = ring[first:] + ring[:first]
    return [*ring, ring[0]]


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


def _check_reachable(nodes: Sequence[NodeConfig], problems: Problems) -> bool:
    """Every transform and sink needs a source somewhere above it."""
    by_name = {node.name: node for node in nodes}
    reached = {node.name for node in nodes if node.kind is Kind.SOURCE}
    for name in ordered({node.name: [given.name for given in node.inputs] for node in nodes}):
        if any(given.name in reached for given in by_name[name].inputs):
            reached.add(name)
    valid = True
    for node in nodes:
        if node.name not in reached:
            valid = False
            hint = "" if node.inputs else "its `input` names no node"
            problems.add(node.place, f"no source reaches the {node.kind} `{node.name}`", hint)
    return valid


def _check_taken(nodes: Sequence[NodeConfig], taps: Collection[str], problems: Problems) -> bool:
    """What sources and transforms give out must go somewhere."""
    taken = {given.name for node in nodes for given in node.inputs} | set(taps)
    valid = True
    for node in nodes:
        if node.kind is not Kind.SINK and node.name not in taken:
            message = f"no node consumes the output of the {node.kind} `{node.name}`"
            problems.add(node.place, message, f"add a sink after it, or name it in one: input: {node.name}")
            valid = False
    return valid


def _check_keys(nodes: Sequence[NodeConfig], edges: Edges, problems: Problems) -> bool:
    """Records of one source that arrive at a node on two ways must not have the same keys there.

    What is followed are (source, suffixes on the way); when two inputs of a node bring the same pair, the
    keys collide.
    """
    by_name = {node.name: node for node in nodes}
    arriving: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    valid = True
    for name in ordered(edges):
        node = by_name[name]
        ways: dict[tuple[str, tuple[str, ...]], str] = {}
        if node.kind is Kind.SOURCE:
            ways[name, ()] = name
        for given in edges[name]:
            for way in sorted(arriving[given]):
                other = ways.setdefault(way, given)
                if other != given:
                    valid = False
                    message = f"the records of `{way[0]}` reach `{name}` with the same keys twice"
                    hint = f"give {listed([given])} or another node of that branch a `key_suffix`"
                    problems.add(node.place, f"{message}, through {listed([other, given])}", hint)
                    break
        suffix = node.options.key_suffix
        arriving[name] = {(source, (*path, suffix) if suffix else path) for source, path in ways}
    return valid
