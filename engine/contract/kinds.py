"""The kinds of component, and where components can work."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Kind", "Locality"]


class Kind(StrEnum):
    """The three kinds of component."""

    SOURCE = "source"
    TRANSFORM = "transform"
    SINK = "sink"


class Locality(StrEnum):
    """Where a component's data can be reached from.

    `machine`: from any process of this machine, such as files. `process`: only from this process, such as its
    standard output.
    """

    ANYWHERE = "anywhere"
    MACHINE = "machine"
    PROCESS = "process"
