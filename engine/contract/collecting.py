"""Sinks whose records a program takes from the report of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from engine.contract.types import Record

__all__ = ["Collects"]


@runtime_checkable
class Collects(Protocol):
    """A sink that keeps what it gets."""

    def collected(self) -> Sequence[Record]:
        """Return the records in the order in which they came, each as often as it came."""
        ...
