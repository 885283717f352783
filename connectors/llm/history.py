"""What has been tried for a question, over all tries that the engine makes of its record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from connectors.llm.pricing import Usage
from engine.errors import RecordError

__all__ = ["MAX_ALONE", "Attempts", "History"]

MAX_ALONE = 2
"""A lone document gets one more try after an unreadable answer."""


_MAX_BOOKED: Final = 10_000


@dataclass(slots=True)
class History:
    """One question's.

    Args:
        size: documents that it may share a call with; 0 is as many as a pack takes.
        together: it was asked about again with others whose answers could not be read either.
        alone: answers that were paid for while it had a call of its own, and could not be read.
        longer: an answer was cut off, so the next one may be longer.
        paid: what its calls have cost.
        error: why there is no answer yet.
    """

    size: int = 0
    together: bool = False
    alone: int = 0
    longer: bool = False
    paid: Usage = field(default_factory=Usage)
    error: RecordError | None = None


class Attempts:
    """The histories of questions that have no fate yet.

    The engine tries a record again after a rate limit, and that costs no try: without a memory it would
    pay for the same unreadable answers each time.
    """

    def __init__(self) -> None:
        self._histories: dict[str, History] = {}
        self._booked: dict[str, None] = {}

    def of(self, key: str) -> History:
        """The history of a question, empty at first."""
        return self._histories.setdefault(key, History())

    def forget(self, key: str) -> None:
        """The question has its fate, or nothing was paid for it yet."""
        self._histories.pop(key, None)

    def book(self, key: str) -> None:
        """What a call about the question has cost is booked on its record."""
        self._booked[key] = None
        if len(self._booked) > _MAX_BOOKED:
            del self._booked[next(iter(self._booked))]

    def is_booked(self, key: str) -> bool:
        """Whether its cost was booked lately: a record that comes back is not charged twice."""
        return key in self._booked

    def __len__(self) -> int:
        return len(self._histories)
