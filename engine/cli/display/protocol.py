"""Protocols of the runs that the display shows, in this process or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.execution.report import RunReport
from engine.flow.stats import RunSnapshot


class Shown(Protocol):
    """A run, or a pipeline without one yet. `trouble`: why it has none, or why it was started again."""

    @property
    def name(self) -> str: ...

    @property
    def report(self) -> RunReport | None: ...

    @property
    def trouble(self) -> str: ...

    def snapshot(self) -> RunSnapshot | None:
        """Return the state of the run, or None before there is one."""


class ShownRuns(Protocol):
    """Several runs by name, in order."""

    @property
    def entries(self) -> Mapping[str, Shown]: ...
