"""Objects shared by the components of one engine, such as the limits of an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


class Shared:
    """Objects by key; the first request creates an object, which lives as long as the engine."""

    def __init__(self) -> None:
        self._objects: dict[Hashable, object] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the object of that key, which includes its type, so that callers agree on what it is."""
        if key not in self._objects:
            self._objects[key] = make()
        return self._objects[key]  # type: ignore[return-value]
