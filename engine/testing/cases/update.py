"""`--update`: write the actual output into the file of cases, keeping comments and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml

from engine.errors import ConfigError, Problem
from engine.testing.cases.model import FileRef
from engine.testing.cases.run import CaseResult, without_fields

KEPT = ("error", "match", "unordered", "ignore")
INDENT = 2
WIDTH = 1_000_000  # a record is one line, however long


class _Flow(dict[str, Any]):
    """A mapping on one line."""


class _Dumper(yaml.SafeDumper):
    """Indents lists in the common style, and writes records on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(
    _Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def update_file(path: Path, results: Sequence[CaseResult]) -> int:
    """Rewrite the expectations of failed cases; return how many were rewritten.

    Raises:
        ConfigError: the file cannot be written, or a case is written in flow style (`{…}`) on one line.
    """
    failed = [result for result in results if not result.passed and result.case.path == path]
    if not failed:
        return 0
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    tests = _child(root, "tests")
    assert tests is not None
    # from last to first, so that earlier line numbers stay valid
    for result in sorted(failed, key=lambda one: one.case.place.line, reverse=True):
        case = _child(tests, result.case.name)
        if not isinstance(case, yaml.MappingNode) or case.flow_style or not case.value:
            where = Problem("cannot be updated", hint="write the case in block style", file=result.case.where)
            raise ConfigError([where])
        _replace(lines, case, _expectation(result))
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(f"cannot write: {error.strerror or error}", file=str(path))]) from None
    return len(failed)


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _replace(lines: list[str], case: yaml.MappingNode, expect: dict[str, Any]) -> None:
    indent = case.start_mark.column
    dumped = yaml.dump(
        {"expect": expect}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH, indent=INDENT
    )
    block = [" " * indent + line for line in dumped.splitlines()]
    for key, value in case.value:
        if key.value == "expect":
            lines[key.start_mark.line : _end(lines, value)] = block
            return
    end = _end(lines, case.value[-1][1])
    lines[end:end] = block


def _end(lines: list[str], node: yaml.Node) -> int:
    """Return the line after a value, excluding blank lines and comments that precede the next one."""
    block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    end = min(node.end_mark.line + (not block), len(lines))
    while end > node.start_mark.line + 1 and (
        not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")
    ):
        end -= 1
    return end


def _expectation(result: CaseResult) -> dict[str, Any]:
    before = result.case.section.expect
    kept = before.model_dump(exclude_unset=True, include=set(KEPT)) if before is not None else {}
    if result.error or "error" in kept:
        kept["error"] = result.error
    if not kept.get("error"):
        kept.pop("error", None)
    ignored = before.ignore if before is not None else []
    output: dict[str, Any] = {}
    # the sinks expected before, else all
    for name in (before and before.output) or result.output:
        records = [without_fields(one, ignored) for one in result.output[name]]
        named = before.output.get(name) if before is not None else None
        if isinstance(named, FileRef):
            target = result.case.path.parent / named.file
            target.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in records))
            output[name] = {"file": named.file}
        else:
            output[name] = [_Flow(one) if isinstance(one, dict) else one for one in records]
    expect: dict[str, Any] = {**kept, "output": output}
    if result.dead_letters or (before is not None and before.dead_letters is not None):
        expect["dead_letters"] = [_Flow(node=one["node"], error=one["error"]) for one in result.dead_letters]
    if before is None or before.counts:
        expect["counts"] = _Flow(result.counts)
    return expect
