"""Sinks that deliver nothing: they write to files in a folder, which outlive a killed process.

A scratch sink stores records as a warehouse does: in a batch marked as a replay the last delivery of a key
wins, any other delivery is added. A sink that writes lines to a local file is kept, with another file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import BaseModel

from engine.contract.batch import Batch
from engine.contract.component import Component, ComponentFactory, Kind, NoParams, Receipt, Sink
from engine.contract.types import JsonValue, Record
from engine.dead_letters.queue import as_json
from engine.errors import ConfigError
from engine.plan.model import Plan, PlanNode

_LINES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".log")


class _ScratchSink(Sink[NoParams]):
    """Adds a line for each batch, with keys and digests of records."""

    inline = True

    def __init__(self, path: Path) -> None:
        super().__init__(NoParams())
        self._path = path

    async def write(self, batch: Batch) -> Receipt:
        keys = batch.keys.to_list()
        rows = [(key, digest(record)) for key, record in zip(keys, batch.records, strict=True)]
        with self._path.open("ab", buffering=0) as file:
            file.write(orjson.dumps((batch.replay, rows)) + b"\n")
        return Receipt()


def on_scratch(plan: Plan, folder: Path, kept: Collection[str] = ()) -> Plan:
    """Return the plan with all sinks but `kept` writing to the folder."""
    return replace(
        plan,
        nodes=tuple(
            _scratch(node, folder) if node.kind is Kind.SINK and node.name not in kept else node
            for node in plan.nodes
        ),
    )


def _scratch(node: PlanNode, folder: Path) -> PlanNode:
    path = _place(node, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if writes_lines(node):
        params = node.params.model_copy(update={"path": str(path)})
        return replace(node, params=params, spec=replace(node.spec, factory=_redirected(node)))
    return node.replaced_by(_ScratchSink(path))


def _redirected(node: PlanNode) -> ComponentFactory:
    def build(params: BaseModel, connection: BaseModel | None) -> Component[Any]:
        component = node.spec.factory(params, connection)
        if component.params != params:
            raise ConfigError(f"`{node.name}` does not write to the `path` of its parameters: leave it out")
        return component

    return build


def _place(node: PlanNode, folder: Path) -> Path:
    name = Path(str(getattr(node.params, "path"))).name if writes_lines(node) else "rows"  # noqa: B009
    return folder / "sinks" / quote(node.name, safe="") / name


def writes_lines(node: PlanNode) -> bool:
    """Return whether a sink writes text to the local file of its `path`, and needs nothing else."""
    path = getattr(node.params, "path", None)
    return (
        node.kind is Kind.SINK
        and node.connection is None
        and isinstance(path, str)
        and "://" not in path
        and path.endswith(_LINES)
    )


def rows_of(node: PlanNode, folder: Path) -> Mapping[str, Sequence[str]]:
    """Return the content of a scratch sink: the digests of each key's values, ideally one."""
    rows: dict[str, list[str]] = {}
    for line in _read(node, folder):
        replay, batch = orjson.loads(line)
        for key, value in batch:
            if replay:
                rows[key] = [value]
            else:
                rows.setdefault(key, []).append(value)
    return rows


def lines_of(node: PlanNode, folder: Path) -> Counter[str]:
    """Return digests of the lines that a sink wrote to its own file."""
    return Counter(sha256(line).hexdigest()[:16] for line in _read(node, folder))


def _read(node: PlanNode, folder: Path) -> list[bytes]:
    path = _place(node, folder)
    return path.read_bytes().splitlines() if path.exists() else []


def digest(record: Record) -> str:
    """Return a digest of the value of a record."""
    value: JsonValue = as_json(record)[0]
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
