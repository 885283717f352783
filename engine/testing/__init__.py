"""Tests of pipelines and connectors: fakes, cases in YAML, and the contract suite.

The fakes are ordinary components, so tests take the same path as production. `engine.testing.cases` runs the
cases of `odw test`; `engine.testing.contract` is the suite that every connector passes. Pytest finds both
automatically. `chaos` tests a plan under kills and failures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.chaos import ChaosReport, Disturbances, chaos
    from engine.testing.fakes import (
        FaultySink,
        MemorySink,
        MemorySource,
        ScriptedClock,
        linear_plan,
        plan_of,
        stand_in,
    )

__all__ = [
    "ChaosReport",
    "Disturbances",
    "FaultySink",
    "MemorySink",
    "MemorySource",
    "ScriptedClock",
    "chaos",
    "linear_plan",
    "plan_of",
    "stand_in",
]


# imported when first used: every run of pytest where the package is installed loads the plugin next to this
def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'engine.testing' has no attribute {name!r}")
    module = "engine.chaos" if name in ("ChaosReport", "Disturbances", "chaos") else "engine.testing.fakes"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
