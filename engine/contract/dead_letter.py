"""A record that could not be delivered."""

from __future__ import annotations

from dataclasses import dataclass

from engine.contract.types import JsonValue

__all__ = ["DeadLetter"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be delivered, and why.

    `record` is the original as it reached the node that failed, JSON-safe, or None when it was larger than
    256 KB; then `reference` locates it. Times are UTC, ISO 8601.
    """

    run_id: str
    pipeline: str
    node: str
    key: str
    stage: str
    error_type: str
    error_message: str
    record: JsonValue
    reference: str = ""
    attempts: int = 1
    first_failed_at: str = ""
    last_failed_at: str = ""
    status: str = "open"
    """open, replayed, recovered (its record was delivered later) or discarded."""
    reason: str = ""
    """The reason for discarding it."""
