"""Types shared by all parts of the contract."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["JsonValue", "Record", "Reservation"]


# A mapping or a Pydantic model. The engine never looks inside; only components know its type.
Record: TypeAlias = Any


JsonValue: TypeAlias = Any  # what json.dumps accepts; used for positions and manifests


class Reservation:
    """Reserved bytes of a budget (see `engine.flow.budget`); this one, without a budget, counts nothing."""

    __slots__ = ()

    def resize(self, nbytes: int) -> None:
        """Change the number of bytes."""

    def grow(self, nbytes: int) -> None:
        """Add bytes."""

    def release(self) -> None:
        """Return the bytes."""
