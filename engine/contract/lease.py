"""The lease of a run, as components see it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Lease", "NoLease"]


class Lease(Protocol):
    """The right of this process to work on a run.

    It expires if the process is suspended, and then another process may take over the run. The engine
    confirms it before a sink writes a batch and before a call is paid for; a component that works for longer
    confirms it again before its work takes effect.
    """

    def is_expired(self) -> bool:
        """Return whether it has to be confirmed; takes no time."""

    async def confirm(self) -> None:
        """Renew it if it has expired.

        Raises:
            LeaseLostError: another process has taken over the run.
            StateError: the state store cannot be used.
        """


class NoLease:
    """The lease outside a run: it never expires."""

    def is_expired(self) -> bool:
        return False

    async def confirm(self) -> None:
        """Do nothing."""
