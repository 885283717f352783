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
    from engine.acks import Tally
    from engine.audit import Check, Delivered
    from engine.batch import Batch, DeadLetter, Drop, Split
    from engine.bookmarks import Bookmark
    from engine.component import (
        BatchLimits,
        Context,
        Kind,
        Params,
        Receipt,
        Sink,
        Source,
        Transform,
        operational,
        spec_of,
    )
    from engine.engine import Engine, Run
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
    from engine.functions import filter, sink, source, transform  # noqa: A004 - used as engine.filter
    from engine.observe import Stage
    from engine.pipeline import Node, Pipeline, load, node, run, stream
    from engine.plan import Plan
    from engine.registry import Registry
    from engine.report import RunReport
    from engine.state.protocol import RunStatus
    from engine.stats import NodeSnapshot, RunSnapshot
    from engine.telemetry import cli_log

_WHERE = {
    "engine.acks": ("Tally",),
    "engine.audit": ("Check", "Delivered"),
    "engine.batch": ("Batch", "DeadLetter", "Drop", "Split"),
    "engine.bookmarks": ("Bookmark",),
    "engine.component": (
        "BatchLimits",
        "Context",
        "Kind",
        "Params",
        "Receipt",
        "Sink",
        "Source",
        "Transform",
        "operational",
        "spec_of",
    ),
    "engine.engine": ("Engine", "Run"),
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
    "engine.observe": ("Stage",),
    "engine.pipeline": ("Node", "Pipeline", "load", "node", "run", "stream"),
    "engine.plan": ("Plan",),
    "engine.registry": ("Registry",),
    "engine.report": ("RunReport",),
    "engine.state.protocol": ("RunStatus",),
    "engine.stats": ("NodeSnapshot", "RunSnapshot"),
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
    "RunReport",
    "RunSnapshot",
    "RunStatus",
    "Sink",
    "Source",
    "Split",
    "Stage",
    "StateError",
    "Tally",
    "Transform",
    "TransientError",
    "cli_log",
    "filter",
    "load",
    "node",
    "operational",
    "run",
    "sink",
    "source",
    "spec_of",
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
