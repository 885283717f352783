"""Counts that must agree: those that a run reports, and those that exist.

A sink that can count a run's records implements `CountsRecords`; its checks complement the comparisons of
`engine.execution.verification` with the ledger.
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
    """The target cannot report a count."""
    NOT_COUNTED = "not counted"
    """Counting is supported, but failed."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two counts, and whether they agree.

    Args:
        what: what was counted, as in `rows of the table Blob`.
        expected: count according to the run; None when it is unknown.
        found: actual count; None when it is unknown, and `note` has the reason.
        fewer: number that may be missing without a mismatch; `note` has the reason.
        node: the node; "" for the run as a whole.
        failed: counting was attempted and failed.
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


_DELETED = "nothing was left to deliver, and the sink deletes its counts when a run completes"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The ledger's counts for one sink, once everything is settled.

    Args:
        records: records delivered, in all attempts of the run.
        here: records delivered in this attempt.
        died: records that died in the receiving service, with the stage "service".
        unique: no two records have the same id; False if they may. dead letters: the records are copies of
            dead letters.
    """

    records: int
    here: int
    died: int = 0
    unique: bool = False
    letters: bool = False

    def check(self, what: str, found: int) -> Check:
        """Return the comparison with a count that the sink deletes in `run_completed`.

        A run that was killed afterwards is resumed with nothing left to deliver, and nothing to count.
        """
        if self.records and not found and not self.here:
            return Check(what, self.records, note=_DELETED)
        return Check(what, self.records, found)


@runtime_checkable
class CountsRecords(Protocol):
    """A sink that can count the records of a run."""

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Compare what exists with the ledger; called when everything is settled, before the sink closes.

        An unknown count is a `Check` without `found`. May raise the errors of `Sink.write`.
        """
