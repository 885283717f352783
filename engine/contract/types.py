"""Types shared by all parts of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    pass

__all__ = ["JsonValue", "Record", "Reservation"]


# A mapping or a Pydantic model. The engine never looks inside; only components know its type.
Record: TypeAlias = Any


JsonValue: TypeAlias = Any  # what json.dumps accepts; used for positions and manifests


class Reservation:
    """Reserved bytes of a budget; see `engine.flow.budget`."""

    __slots__ = ()

    def resize(self, nbytes: int) -> None:
        raise NotImplementedError

    def grow(self, nbytes: int) -> None:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError
