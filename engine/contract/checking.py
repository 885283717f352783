"""What a component may offer besides: to reach the outside for real, or to judge records without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from engine.contract.types import Record
from engine.errors import RecordError

__all__ = ["ChecksConnection", "ChecksOthers", "ChecksRecords", "RecordCheck"]

RecordCheck: TypeAlias = Callable[[Sequence[Record]], Mapping[int, RecordError]]
"""Finds the records that would be refused, by their places."""


@runtime_checkable
class ChecksConnection(Protocol):
    """A component that can try its connection; called on one that has not been opened."""

    async def check_connection(self) -> str:
        """Ask the other side something that costs nothing and changes nothing, with the credentials given.

        Returns:
            What was found, in a few words and without secrets ("42 models, gpt-4o-mini among them").

        Raises:
            ComponentError: it cannot be reached or refuses the credentials; the text has the remedy.
        """
        ...


@runtime_checkable
class ChecksOthers(Protocol):
    """A component that may ask others besides its connection, also where that is the sandbox."""

    async def check_others(self) -> str:
        """Do as `check_connection` with the others alone; "" if there are none."""
        ...


@runtime_checkable
class ChecksRecords(Protocol):
    """A sink's class that knows, without delivering, which records its receiver would refuse."""

    def record_check(self, params: Any, declared: Sequence[Any]) -> RecordCheck | None:
        """Return the check of a sink with these parameters, None when only the receiver knows.

        A class method. `declared` are the models of the file's `warehouse:` section.
        """
        ...
