"""What installed packages offer to the engine."""

from __future__ import annotations

import importlib.metadata
from functools import cache

__all__ = ["entry_points"]


def entry_points(group: str) -> importlib.metadata.EntryPoints:
    """Return the entry points of a group. A package that is installed later is not seen by this process."""
    return _all().select(group=group)


@cache
def _all() -> importlib.metadata.EntryPoints:
    # reads a file of every installed package: some 20 ms, and a file is compiled more than once
    return importlib.metadata.entry_points()
