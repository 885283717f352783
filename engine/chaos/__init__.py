"""Run a pipeline repeatedly under kills and failures, and compare each run with an undisturbed one.

The undisturbed run records the listings of sources and the answers of models. Each disturbed run reads the
same splits in another order, under the same run id and seed. Some of its calls fail or are delayed; its
process is killed (SIGKILL) at seeded places, and another process resumes the run. In the end every sink must
have the same records under the same keys, with the same values, each once, and the same records must be dead.

Nothing is delivered: sinks write to scratch files (`engine.chaos.scratch`), and dead letters are not
forwarded. A sink that can list its records may be tested itself instead.
"""

from __future__ import annotations

from engine.chaos.attempt import Disturbances
from engine.chaos.trial import chaos
from engine.chaos.verdict import ChaosReport, Finding

__all__ = ["ChaosReport", "Disturbances", "Finding", "chaos"]
