"""A pipeline run again and again under kills and failures, and compared with an undisturbed run.

The undisturbed run freezes what there is to read and what models answered. Each disturbed one reads the same
splits in another order, under the same run id and seed. Its calls fail now and then and are held up; its
process is killed (SIGKILL) at seeded places, and another one resumes the run. At the end every sink must have
the same records under the same keys, with the same values, each once, and the same records must be dead.

Nothing is delivered: sinks write to scratch files (`engine.chaos.scratch`), and dead letters are not
forwarded. A sink that can tell what it has may be tried itself instead.
"""

from __future__ import annotations

from engine.chaos.attempt import Disturbances
from engine.chaos.trial import chaos
from engine.chaos.verdict import ChaosReport, Finding

__all__ = ["ChaosReport", "Disturbances", "Finding", "chaos"]
