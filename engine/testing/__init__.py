"""For tests of pipelines and connectors: fakes, cases in YAML, and the contract suite.

The fakes are ordinary components, so a test runs the same path as production does. `engine.testing.cases`
runs the cases of `odw test`; `engine.testing.contract` is the suite that every connector passes. Pytest finds
both by itself.
"""

from __future__ import annotations

from engine.testing.fakes import (
    FaultySink,
    MemorySink,
    MemorySource,
    ScriptedClock,
    linear_plan,
    plan_of,
    stand_in,
)

__all__ = ["FaultySink", "MemorySink", "MemorySource", "ScriptedClock", "linear_plan", "plan_of", "stand_in"]
