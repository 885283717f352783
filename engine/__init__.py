"""An async pipeline engine: YAML DAGs, backpressure in bytes, batched model calls, dead letters.

::

    import engine

    reports = await engine.run("pipelines.yaml", params={"blobs": {"batch_size": 50}})

Every public name is listed in `__all__` and imported when it is first used, because this file runs on
every import of any part of the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.contract.acks import Tally
    from engine.contract.batch import Batch, DeadItem, Drop
    from engine.contract.bookmarks import Bookmark
    from engine.contract.component import (
        BatchLimits,
        Context,
        Kind,
        Params,
        Receipt,
        Sink,
        Source,
        Transform,
        component,
        operational,
    )
    from engine.contract.dead_letter import DeadLetter
    from engine.contract.split import Split
    from engine.contract.verification import Check, Delivered
    from engine.errors import (
        BatchError,
        ConfigError,
        EngineError,
        FatalError,
        RecordError,
        RunError,
        StateError,
        TransientError,
    )
    from engine.execution.engine import Engine
    from engine.execution.events import RunEvent
    from engine.execution.report import RunReport
    from engine.execution.run import Run
    from engine.flow.stats import NodeSnapshot, RunSnapshot
    from engine.functions import filter, sink, source, transform  # noqa: A004 - used as engine.filter
    from engine.pipeline import Node, Pipeline, load, node, run, run_sync, stream
    from engine.plan.model import Plan
    from engine.registry import Registry
    from engine.state.records import RunStatus
    from engine.telemetry import cli_log

_WHERE = {
    "engine.contract.acks": ("Tally",),
    "engine.contract.verification": ("Check", "Delivered"),
    "engine.contract.batch": ("Batch", "DeadItem", "Drop"),
    "engine.contract.dead_letter": ("DeadLetter",),
    "engine.contract.split": ("Split",),
    "engine.contract.bookmarks": ("Bookmark",),
    "engine.contract.component": (
        "BatchLimits",
        "Context",
        "Kind",
        "Params",
        "Receipt",
        "Sink",
        "Source",
        "Transform",
        "operational",
        "component",
    ),
    "engine.execution.engine": ("Engine",),
    "engine.execution.run": ("Run",),
    "engine.errors": (
        "BatchError",
        "ConfigError",
        "EngineError",
        "FatalError",
        "RecordError",
        "RunError",
        "StateError",
        "TransientError",
    ),
    "engine.functions": ("filter", "sink", "source", "transform"),
    "engine.execution.events": ("RunEvent",),
    "engine.pipeline": ("Node", "Pipeline", "load", "node", "run", "run_sync", "stream"),
    "engine.plan.model": ("Plan",),
    "engine.registry": ("Registry",),
    "engine.execution.report": ("RunReport",),
    "engine.state.records": ("RunStatus",),
    "engine.flow.stats": ("NodeSnapshot", "RunSnapshot"),
    "engine.telemetry": ("cli_log",),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Batch",
    "BatchError",
    "BatchLimits",
    "Bookmark",
    "Check",
    "ConfigError",
    "Context",
    "DeadItem",
    "DeadLetter",
    "Delivered",
    "Drop",
    "Engine",
    "EngineError",
    "FatalError",
    "Kind",
    "Node",
    "NodeSnapshot",
    "Params",
    "Pipeline",
    "Plan",
    "Receipt",
    "RecordError",
    "Registry",
    "Run",
    "RunError",
    "RunEvent",
    "RunReport",
    "RunSnapshot",
    "RunStatus",
    "Sink",
    "Source",
    "Split",
    "StateError",
    "Tally",
    "Transform",
    "TransientError",
    "cli_log",
    "component",
    "filter",
    "load",
    "node",
    "operational",
    "run",
    "run_sync",
    "sink",
    "source",
    "stream",
    "transform",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
