"""The branches of a transform: the named outputs of a router."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Branches"]


@dataclass(frozen=True, slots=True)
class Branches:
    """The named outputs of a transform, which other nodes read as `input: node.branch`.

    Args:
        names: the branches, each of which has to be read by a node.
        exclusive: no record goes to two branches, so they can be merged again without a key suffix.
        dropped: branches whose records are dropped on purpose; no node can read these.
    """

    names: tuple[str, ...]
    exclusive: bool = True
    dropped: frozenset[str] = frozenset()
