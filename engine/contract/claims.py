"""External resources of components, so that two nodes do not interfere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Claim"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A resource that a component uses: a file, a table, the standard input.

    Args:
        place: the same text for all components that use the same resource (through the same connection).
        use: a verb and the resource, for messages: `reads the standard input`.
        alone: the problem when another node uses it at the same time; "" for none.
        remedy: how to solve it.
        reads: tests whether it reads the file at this place; None if it reads no files.
        adds: place of a file that it adds to or creates, such as any of a folder; "" for none.
        deletes: tests whether it deletes the file at this place, which another node has written.
        located: returns the server, which all connections to it have in common, and the place on it, given
            the fields of the connection; None if only the same connection leads to the same place.
    """

    place: str
    use: str
    alone: str = ""
    remedy: str = ""
    reads: Callable[[str], bool] | None = None
    adds: str = ""
    deletes: Callable[[str], bool] | None = None
    located: Callable[[Mapping[str, Any]], tuple[object, str]] | None = None
