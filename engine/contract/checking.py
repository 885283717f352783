"""What a component may offer besides, so that `doctor` can reach the outside for real."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["ChecksConnection", "ChecksOthers"]


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
