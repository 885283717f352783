"""A part of a run that one process works on by itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Chunk"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive splits of one source, by their places in the order in which they were stored.

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
        """Names the chunk within its run; stable as long as chunks are cut to the same size."""
        return f"{self.node}/{self.first}+{self.count}"
