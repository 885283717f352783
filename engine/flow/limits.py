"""Limits of a whole run: dead records and minimum input.

A number of dead letters is a limit for the whole run. A share is checked twice: during the run for the last
records of each node, so that a general fault ends it early even after many successes, and at the end for all
records, however few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from engine.contract.acks import Tally
from engine.errors import DeadLetterBudgetError, InputMissingError, RunError
from engine.plan.model import DeadLetterSettings, Plan

WINDOW: Final = 1_000  # last records of a node for which a share is checked during the run
JUDGED_FROM: Final = 100
DEFAULT_WINDOW: Final = 10_000  # the same for the default share; never checked before it is full


@dataclass(slots=True)
class _Window:
    """Counts how many of the last records of a node died there."""

    marks: deque[tuple[int, int, int]] = field(default_factory=lambda: deque([(0, 0, 0)]))
    """(records so far, dead records so far, start of the batch with these deaths), oldest first; the first
    entry is the start of the window."""
    dead: int = 0

    def died(self, came: int, count: int, batch: int, size: int) -> tuple[int, int]:
        """Note that `count` records of a batch died, after `came` records in total.

        Returns how many came and died recently: of the last `size`, or a few more, so that no counted batch
        is cut.
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
    """Compares a run's dead letters with the pipeline's limit as they occur."""

    def __init__(self, settings: DeadLetterSettings) -> None:
        self._settings = settings
        self._windows: dict[str, _Window] = {}

    def exceeded(
        self, node: str, came: int, count: int, batch: int, own: Tally, base: int, run: Tally
    ) -> str:
        """Return the limit, in words, if it is exceeded; else "".

        Args:
            node: where `count` records of a batch just died.
            came: records that this node received in this attempt.
            own: this process's counts in all attempts; `base` is the part before this attempt.
            run: the counts of the whole run.
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
        # the share refers to records read: if only some of them reach a node, fewer may die there
        read = own.read + own.forked - base
        if dead * came > share * lately * max(read, came):
            return f"{_percent(share)} are allowed, and {dead:,} of the last {lately:,} at {node!r} died"
        return ""

    def _lately(self, node: str, came: int, count: int, batch: int) -> tuple[int, int, int]:
        size = DEFAULT_WINDOW if self._settings.implied else WINDOW
        window = self._windows.setdefault(node, _Window())
        return *window.died(came, count, batch, size), size


def unmet(plan: Plan, tally: Tally, matched: Collection[str]) -> RunError | None:
    """Return why a run that has processed everything has failed; None if it has not.

    Args:
        matched: the sources that found input, new or not.
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
