"""External resources of components, so that two nodes do not interfere."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Claim"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A resource that a component uses: a file, a table, the standard input.

    Args:
        place: the same text for all components that use the same resource (through the same connection).
        use: a verb and the resource, for messages: `reads the standard input`.
        alone: the problem when another node uses it at the same time; "" for none.
        remedy: how to solve it.
    """

    place: str
    use: str
    alone: str = ""
    remedy: str = ""
