"""Sinks whose records a program takes from the run's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from engine.contract.types import Record

__all__ = ["Collects"]


@runtime_checkable
class Collects(Protocol):
    """A sink that keeps its records."""

    def collected(self) -> Sequence[Record]:
        """Return the records in order of arrival, including duplicates."""
