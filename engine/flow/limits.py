"""Limits of a whole run: dead records and minimum input.

A number of dead letters is compared with all of the run. A share is compared twice: while the run goes with
the last records of each node, so that a fault of everything ends it early however much went well before, and
at its end with all of it, however little that is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from engine.contract.acks import Tally
from engine.errors import DeadLetterBudgetError, InputMissingError, RunError
from engine.plan.model import DeadLetterSettings, Plan

__all__ = ["DEFAULT_WINDOW", "WINDOW", "DeathWatch", "unmet"]

WINDOW: Final = 1_000  # records of a node that a share is compared with while the run goes
JUDGED_FROM: Final = 100
DEFAULT_WINDOW: Final = (
    10_000  # the same where the share is not the file's own; never judged before it is full
)


@dataclass(slots=True)
class _Window:
    """How many of the last records of a node have died there."""

    marks: deque[tuple[int, int, int]] = field(default_factory=lambda: deque([(0, 0, 0)]))
    """(records that had come, records that had died, where the batch began in which they did), oldest first;
    the first is where the window begins."""
    dead: int = 0

    def died(self, came: int, count: int, batch: int, size: int) -> tuple[int, int]:
        """Note that `count` of a batch died, with which `came` records had come.

        Returns how many came and died lately: of the last `size`, or a few more, so that no batch whose dead
        are counted is cut.
        """
        self.dead += count
        marks, start = self.marks, came - size
        while len(marks) > 1 and marks[1][0] <= start:
            marks.popleft()
        if len(marks) > 1 and marks[-1][0] - marks[-2][0] < size // 20:
            marks[-1] = (came, self.dead, marks[-1][2])
        else:
            marks.append((came, self.dead, came - batch))
        begin = max(marks[0][0], min(start, marks[1][2]))
        return came - begin, self.dead - marks[0][1]


class DeathWatch:
    """Compares a run's dead letters with what the pipeline allows, as they come."""

    def __init__(self, settings: DeadLetterSettings) -> None:
        self._settings = settings
        self._windows: dict[str, _Window] = {}

    def exceeded(
        self, node: str, came: int, count: int, batch: int, own: Tally, base: int, run: Tally
    ) -> str:
        """Return how many may die, in words, when there are more than that; else "".

        Args:
            node: where records died just now, and `count`, how many, of a batch of so many.
            came: records that this node has been given in this attempt.
            own: what this process has read and lost in all attempts; `base` of it before this attempt.
            run: what the whole run has.
        """
        settings = self._settings
        if settings.max_count is not None and run.dead > settings.max_count:
            return f"{settings.max_count:,} are allowed"
        share = settings.max_share
        if share is None:
            return ""
        records = run.read + run.forked
        if not settings.implied and records >= JUDGED_FROM and run.dead > share * records:
            return f"{_percent(share)} of {records:,} are allowed"
        lately, dead, size = self._lately(node, came, count, batch)
        if lately < (size if settings.implied else JUDGED_FROM):
            return ""
        # the share is of what was read: where only some of it comes to a node, fewer may die there
        read = own.read + own.forked - base
        if dead * came > share * lately * max(read, came):
            return f"{_percent(share)} are allowed, and {dead:,} of the last {lately:,} at {node!r} died"
        return ""

    def _lately(self, node: str, came: int, count: int, batch: int) -> tuple[int, int, int]:
        size = DEFAULT_WINDOW if self._settings.implied else WINDOW
        window = self._windows.setdefault(node, _Window())
        return *window.died(came, count, batch, size), size


def unmet(plan: Plan, tally: Tally, matched: Collection[str]) -> RunError | None:
    """Why a run that has done all of its work has failed nevertheless; None when it has not.

    Args:
        matched: the sources that found something, whether or not it was new.
    """
    settings, limits = plan.settings, plan.dead_letters
    if settings.require_match:
        empty = [f"`{node.name}`" for node in plan.sources if node.name not in matched]
        if empty:
            return InputMissingError(
                f"{', '.join(empty)} found nothing to read, but the pipeline has `require_match`"
            )
    if tally.read < settings.min_records:
        return InputMissingError(
            f"{tally.read} records were read, but the pipeline has `min_records: {settings.min_records}`"
        )
    records = tally.read + tally.forked
    if limits.max_share is None or tally.dead <= limits.max_share * records:
        return None
    allowed = f"{_percent(limits.max_share)} are allowed"
    if limits.implied:
        allowed += " unless `dead_letters.max` is set"
    return DeadLetterBudgetError(f"{tally.dead} of {records} records died, {allowed}")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
