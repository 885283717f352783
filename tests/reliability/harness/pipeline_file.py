"""`pipelines.yaml` adapted to a trial, as a file: workers and submitters have no `--set`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.reliability.harness.children import ROOT
from tests.reliability.harness.workload import SIMULATED, Workload

__all__ = ["pipeline_file"]

GATE = {"transform": "tests.reliability.harness.gate:Gate", "buffer": 1}


def pipeline_file(workload: Workload, path: Path, *, gated: bool = False) -> Path:
    """Write the pipelines of a workload, each with a gate in front of its first sink if it is to be held."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "pipelines.yaml").read_text("utf-8"))
    document.pop("aliases")
    pipelines = {name: document["pipelines"][name] for name in workload.pipelines}
    document["pipelines"] = pipelines
    for place, value in workload.settings():
        *parents, last = place.split(".")
        found: dict[str, Any] = pipelines
        for name in parents:
            found = found.setdefault(name, {})
        found[last] = value
    if gated:
        for name, pipeline in pipelines.items():
            pipeline["nodes"] = _with_gate(pipeline["nodes"], "load" if name in SIMULATED else "stage")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return path


def _with_gate(nodes: dict[str, Any], before: str) -> dict[str, Any]:
    """Nodes take their records from the one above, so the order says it all."""
    result: dict[str, Any] = {}
    for name, node in nodes.items():
        if name == before:
            result["gate"] = dict(GATE)
        result[name] = node
    return result
