"""What can be shown while it is under way: the runs of this process, or one that is done elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.execution.report import RunReport
from engine.flow.stats import RunSnapshot

__all__ = ["Shown", "ShownRuns"]


class Shown(Protocol):
    """One run, or a pipeline that has none yet. `trouble`: why it has none, or why it began anew."""

    @property
    def name(self) -> str: ...

    @property
    def report(self) -> RunReport | None: ...

    @property
    def trouble(self) -> str: ...

    def snapshot(self) -> RunSnapshot | None:
        """What the run is doing; None before there is one."""
        ...


class ShownRuns(Protocol):
    """Some of them, by name, in order."""

    @property
    def entries(self) -> Mapping[str, Shown]: ...
