"""What the components of one engine share, such as the limits of an endpoint that several pipelines ask."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


class Shared:
    """Objects by key; each is made by whoever asks for it first, and lives as long as the engine."""

    def __init__(self) -> None:
        self._objects: dict[Hashable, object] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The object of that key, which names the type too: no two callers mean different things."""
        if key not in self._objects:
            self._objects[key] = make()
        return self._objects[key]  # type: ignore[return-value]
