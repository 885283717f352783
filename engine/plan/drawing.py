"""Draw a plan as a Mermaid flowchart or a text tree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from engine.contract.component import Kind
from engine.plan.model import Plan, PlanNode

_SHAPES: Final = {Kind.SOURCE: ("([", "])"), Kind.TRANSFORM: ("[", "]"), Kind.SINK: ("[(", ")]")}


def mermaid(plan: Plan) -> str:
    """Return a Mermaid flowchart, ending with a newline.

    Sources are rounded, transforms are boxes, sinks are cylinders; dotted lines show forwarded dead letters.
    """
    ids = {
        node.name: f"n{index}_{re.sub(r'[^A-Za-z0-9_]', '_', node.name)}"
        for index, node in enumerate(plan.nodes)
    }
    lines = ["flowchart LR"]
    lines += [f"  {ids[node.name]}{_shape(node, node.name)}" for node in plan.nodes]
    for node in plan.nodes:
        lines += [f"  {ids[name]} -->{_label(node, name)} {ids[node.name]}" for name in node.inputs]
    forward = plan.dead_letters.forward
    if forward is not None:
        lines.append(f"  dead_letters{_shape(forward, 'dead letters')}")
        lines += [f"  {ids[node.name]} -.-> dead_letters" for node in plan.nodes]
    return "\n".join(lines) + "\n"


def _label(node: PlanNode, name: str) -> str:
    """Return the branches that a node reads, as the label of its arrow."""
    branches = node.input_branches.get(name)
    return f'|"{", ".join(branches)}"|' if branches else ""


def _shape(node: PlanNode, title: str) -> str:
    opening, closing = _SHAPES[node.kind]
    return f'{opening}"{title}<br/>{node.kind}: {_escaped(node.spec.name)}"{closing}'


def _escaped(name: str) -> str:
    return name.replace('"', "#quot;")


def chains(plan: Plan) -> str:
    """Return the nodes in one line: `read → clean → save; clean → copy`."""
    parts: list[list[str]] = []
    for node in plan.nodes:
        inputs = list(dict.fromkeys(node.inputs))
        if parts and inputs == parts[-1][-1:]:
            parts[-1].append(node.name)
        else:
            parts.append([", ".join(inputs), node.name] if inputs else [node.name])
    return "; ".join(" → ".join(names) for names in parts)


def text(plan: Plan) -> str:
    """Return a tree of the nodes with kinds and components, ending with a newline.

    A node with several inputs is drawn below the first of them; the others refer to it.
    """
    lines = [plan.pipeline]
    drawn: set[str] = set()
    roots = [node for node in plan.nodes if not node.inputs]
    below: dict[str, list[PlanNode]] = {}
    for node in plan.nodes:
        for name in dict.fromkeys(node.inputs):
            below.setdefault(name, []).append(node)
    waiting = _level("", roots, "")
    while waiting:  # no recursion: a pipeline may be deeper than Python's stack
        above, node, margin, last = waiting.pop()
        branches = node.input_branches.get(above, ())
        branch = f"{margin}{'└─' if last else '├─'} "
        branch += f"[{', '.join(branches)}] " if branches else ""
        if node.name in drawn:
            lines.append(f"{branch}{node.name} (see above)")
            continue
        drawn.add(node.name)
        lines.append(f"{branch}{node.name}  {node.kind} {node.spec.name}{_where(node)}")
        waiting += _level(node.name, below.get(node.name, []), margin + ("   " if last else "│  "))
    forward = plan.dead_letters.forward
    if forward is not None:
        lines.append(f"dead letters → sink {forward.spec.name}{_where(forward)}")
    return "\n".join(lines) + "\n"


def _level(above: str, nodes: Sequence[PlanNode], margin: str) -> list[tuple[str, PlanNode, str, bool]]:
    """Return the nodes to draw below one, in stack order, each with whether it is the last."""
    return [(above, node, margin, index == 0) for index, node in enumerate(reversed(nodes))]


def _where(node: PlanNode) -> str:
    """Return the connection, in brackets."""
    if node.connection is None:
        return ""
    words = [node.connection.name] if node.connection.name != "sandbox" else []
    if node.connection.sandbox:
        words.append("sandbox")
    return f"  [{', '.join(words)}]" if words else ""
