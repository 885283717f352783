"""Counts that must agree: what a run reports, and what exists.

A sink that can say what it has of a run meets `CountsRecords`; its answers stand beside the comparisons
that `engine.execution.verification` makes with the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from engine.contract.types import JsonValue

__all__ = ["Check", "CountsRecords", "Delivered", "Verdict"]


class Verdict(StrEnum):
    """The result of comparing two counts."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    """The target cannot say how many there are."""
    NOT_COUNTED = "not counted"
    """They could have been counted, but counting failed."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two counts, and whether they agree.

    Args:
        what: what was counted, as in `rows of the table Blob`.
        expected: by the books of the run; None when these do not say.
        found: None when it is not known; `note` then says why.
        fewer: that many may be missing all the same; `note` says why.
        node: "" when it is about the run as a whole.
        failed: counting was tried and failed.
    """

    what: str
    expected: int | None = None
    found: int | None = None
    note: str = ""
    fewer: int = 0
    node: str = ""
    failed: bool = False

    @property
    def verdict(self) -> Verdict:
        """Whether the counts agree."""
        if self.failed:
            return Verdict.NOT_COUNTED
        if self.expected is None or self.found is None:
            return Verdict.UNKNOWN
        agrees = self.expected - self.fewer <= self.found <= self.expected
        return Verdict.AGREES if agrees else Verdict.DIFFERS

    @property
    def passed(self) -> bool:
        """False for a mismatch or a failed query; unknown counts pass."""
        return self.verdict in (Verdict.AGREES, Verdict.UNKNOWN)

    def to_json(self) -> dict[str, JsonValue]:
        """Return a plain mapping, for reports."""
        return {
            "node": self.node,
            "what": self.what,
            "expected": self.expected,
            "found": self.found,
            "verdict": str(self.verdict),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Delivered:
    """The ledger's counts for one sink, once everything is settled.

    Args:
        records: that it has taken, in all attempts of the run.
        here: the part of them that it has taken in this attempt.
        died: records that died on its other side, under the stage "service".
        unique: no two of the records have the same id. False: they may have.
        dead letters: the records are copies of dead letters.
    """

    records: int
    here: int
    died: int = 0
    unique: bool = False
    letters: bool = False


@runtime_checkable
class CountsRecords(Protocol):
    """A sink that can report what it holds of a run."""

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Compare what exists with the ledger; called when everything is settled, before the sink closes.

        What cannot be known is a `Check` without `found`. May raise as `Sink.write` does.
        """
        ...
