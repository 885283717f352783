"""The history of a question across the engine's retries of its record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from connectors.llm.pricing import Usage

MAX_ALONE = 2
"""A lone document gets one more try after an unreadable answer."""


_MAX_BOOKED: Final = 10_000


@dataclass(slots=True)
class History:
    """The history of one question.

    Args:
        size: maximum documents of its next call; 0 for a full pack.
        together: it was already repeated together with others whose answers were unreadable.
        alone: number of paid but unreadable answers from calls about it alone.
        longer: an answer was cut off, so the next one gets a higher limit.
        paid: cost of its calls.
    """

    size: int = 0
    together: bool = False
    alone: int = 0
    longer: bool = False
    paid: Usage = field(default_factory=Usage)


class Attempts:
    """The histories of questions without an outcome.

    The engine retries a record after a rate limit without counting it as an attempt. Without this memory it
    would pay for the same unreadable answers each time.
    """

    def __init__(self) -> None:
        self._histories: dict[str, History] = {}
        self._booked: dict[str, None] = {}

    def of(self, key: str) -> History:
        """Return the history of a question, empty at first."""
        return self._histories.setdefault(key, History())

    def forget(self, key: str) -> None:
        """Forget a question that has its outcome, or was not paid for yet."""
        self._histories.pop(key, None)

    def book(self, key: str) -> None:
        """Note that the cost of a question was booked on its record."""
        self._booked[key] = None
        if len(self._booked) > _MAX_BOOKED:
            del self._booked[next(iter(self._booked))]

    def is_booked(self, key: str) -> bool:
        """Return whether its cost was booked recently: a retried record is not charged twice."""
        return key in self._booked

    def __len__(self) -> int:
        return len(self._histories)
