"""The branches of a transform: the named outputs that a router gives its records to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Branches"]


@dataclass(frozen=True, slots=True)
class Branches:
    """The outputs of a transform, which other nodes read as `input: node.branch`.

    Args:
        names: every branch that has to be read by some node.
        exclusive: no record goes to two of them, so they can be merged again without a key suffix.
        dropped: branches whose records are dropped on purpose, and which no node can read.
    """

    names: tuple[str, ...]
    exclusive: bool = True
    dropped: frozenset[str] = frozenset()
