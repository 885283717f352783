"""What a component uses of the outside world, so that two nodes do not get into each other's way."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Claim"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What one component uses: a file, a table, the standard input.

    Args:
        place: the same text for all components that use the same thing (through the same connection).
        use: a verb and the thing, for messages: `reads the standard input`.
        alone: what goes wrong when another node uses it at the same time; "" when nothing does.
        remedy: what to do then.
    """

    place: str
    use: str
    alone: str = ""
    remedy: str = ""
