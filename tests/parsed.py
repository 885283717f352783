"""What tests ask of the source of `engine` and `connectors`: each module is parsed once a process."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["Parsed", "modules"]

ROOT = Path(__file__).parents[1]
FOLDERS = ("engine", "connectors")


@dataclass
class Parsed:
    """A module: its lines, lines per function, imports (those for type-checking too), and calls of `print`.

    `state` are the top-level names in lower case that are bound to a fresh dict, list or set.
    """

    lines: int
    functions: dict[str, int] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    prints: bool = False
    state: list[str] = field(default_factory=list)


@cache
def modules() -> dict[str, Parsed]:
    """All modules by their paths below the root."""
    found = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): _parsed(path.read_text("utf-8")) for path in found}


def _parsed(text: str) -> Parsed:
    tree = ast.parse(text)
    parsed = Parsed(text.count("\n"), state=_state(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parsed.functions[node.name] = (node.end_lineno or node.lineno) - node.lineno + 1
        elif isinstance(node, ast.Import):
            parsed.imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parsed.imports.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            parsed.prints = True
    return parsed


def _state(tree: ast.Module) -> list[str]:
    return [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict | ast.List | ast.Set)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.strip("_").isupper() and target.id != "__all__"
    ]
