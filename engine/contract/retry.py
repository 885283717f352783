"""Retries that a component makes by itself."""

from __future__ import annotations

from typing import Protocol

from engine.errors import TransientError

__all__ = ["Retry"]


class Retry(Protocol):
    """Retries of one part of a component's work, according to the node's `retry`."""

    @property
    def attempts(self) -> int:
        """Total number of attempts, including the first."""

    @property
    def outwaited(self) -> bool:
        """Whether an outage has lasted for the pipeline's `outage_limit`: no further attempt is due."""

    def succeeded(self) -> None:
        """Note a success: an outage, if there was one, is over."""

    async def wait(self, attempt: int, error: TransientError) -> None:
        """Count a retry and back off after failed attempt number `attempt` (from 1)."""
