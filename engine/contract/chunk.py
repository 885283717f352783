"""A part of a run that one process works on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Chunk"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive splits of one source, by their positions in stored order.

    Args:
        node: the source.
        first: place of the first split, counted from 0.
        count: how many splits.
    """

    node: str
    first: int
    count: int

    @property
    def name(self) -> str:
        """Name of the chunk within its run; stable while the chunk size stays the same."""
        return f"{self.node}/{self.first}+{self.count}"
