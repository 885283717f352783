"""Check that the branches of routers and the nodes that read them fit together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from engine.config.model import InputConfig, NodeConfig
from engine.config.problems import Problems, listed, unknown
from engine.contract.branches import Branches

KnownBranches = Mapping[str, Branches | None]
"""The branches of every valid node; None for a node without branches."""


def check_branches(
    nodes: Sequence[NodeConfig], known: KnownBranches, taps: Collection[str], problems: Problems
) -> bool:
    """Report inputs without a valid branch, and branches that no node reads; return whether all fit.

    Args:
        taps: nodes whose whole output the caller consumes.
    """
    valid = True
    read: dict[str, set[str]] = {}
    for node in nodes:
        for given in node.inputs:
            if given.name in known and not _fits(given, known[given.name], problems):
                valid = False
            read.setdefault(given.name, set()).add(given.branch)
    for node in nodes:
        branches = known.get(node.name)
        if branches is None or node.name in taps:
            continue
        for name in branches.names:
            if name not in read.get(node.name, ()):
                valid = False
                hint = f"name it in a node: input: {node.name}.{name}, or drop its records: drop: [{name}]"
                problems.add(node.place, f"no node reads the branch `{name}` of `{node.name}`", hint)
    return valid


def _fits(given: InputConfig, branches: Branches | None, problems: Problems) -> bool:
    if branches is None:
        if given.branch:
            message = f"`{given.name}` has no branches"
            problems.add(given.place, message, f"write input: {given.name}")
        return not given.branch
    if given.branch in branches.names:
        return True
    if not given.branch:
        hint = f"input: {given.name}.{branches.names[0]}" if branches.names else ""
        whole = listed(branches.names)
        problems.add(given.place, f"`{given.name}` has branches, and one has to be named: {whole}", hint)
    elif given.branch in branches.dropped:
        message = f"the records of the branch `{given.branch}` of `{given.name}` are dropped"
        problems.add(given.place, message, "take it out of `drop` to read it")
    else:
        problems.add(given.place, unknown(f"branch of `{given.name}`", given.branch, branches.names))
    return False
