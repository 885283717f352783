"""Tests of pipelines and connectors: fakes, cases in YAML, and the contract suite.

The fakes are ordinary components, so tests take the same path as production. `engine.testing.cases` runs the
cases of `odw test`; `engine.testing.contract` is the suite that every connector passes. Pytest finds both
automatically. `chaos` tests a plan under kills and failures.
"""

from __future__ import annotations

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
