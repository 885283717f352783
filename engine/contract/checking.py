"""Optional methods of components: try the connection, or check records without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from engine.contract.types import Record
from engine.errors import RecordError

__all__ = ["ChecksConnection", "ChecksOthers", "ChecksRecords", "RecordCheck"]

RecordCheck: TypeAlias = Callable[[Sequence[Record]], Mapping[int, RecordError]]
"""Finds the records that the receiver would reject, by index."""


@runtime_checkable
class ChecksConnection(Protocol):
    """A component that can try its connection; called before it is opened."""

    async def check_connection(self) -> str:
        """Send the service a request that costs and changes nothing, with the given credentials.

        Returns:
            The result, in a few words and without secrets ("42 models, gpt-4o-mini among them").

        Raises:
            ComponentError: the service cannot be reached or rejects the credentials; the message has the
                remedy.
        """


@runtime_checkable
class ChecksOthers(Protocol):
    """A component that may use other services than its connection, even if that is the sandbox."""

    async def check_others(self) -> str:
        """Do the same as `check_connection` with only the other services; return "" if there are none."""


@runtime_checkable
class ChecksRecords(Protocol):
    """A sink class that can find, without delivering, the records that its receiver would reject."""

    def record_check(self, params: Any, declared: Sequence[Any]) -> RecordCheck | None:
        """Return the check of a sink with these parameters; None when only the receiver can decide.

        A class method. `declared` are the models of the file's `warehouse:` section.
        """
