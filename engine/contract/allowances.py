"""Limits that all processes with the same state share: an endpoint's quota, and what may be spent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Allowances", "Draw", "NoSpending", "Payment", "Spending"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One process's request to a shared limit.

    Args:
        name: name of the limit, the same in all processes.
        amount: maximum to take; a negative amount is returned to the limit.
        capacity: total that may be taken.
        rate: amount that becomes free again each second; 0 for a budget.
        force: take the full amount even if less is left, because it has been used already.
    """

    name: str
    amount: float
    capacity: float
    rate: float = 0.0
    force: bool = False


class Allowances(Protocol):
    """Shared limits in the state store. Each call is a transaction, so take enough for a while."""

    async def draw(self, draws: Sequence[Draw]) -> list[float]:
        """Return the granted part of each draw, from 0 to its amount. Raises `StateError`."""


@dataclass(slots=True)
class Payment:
    """A paid call in progress. Set `usd` to its cost; 0 if it failed."""

    usd: float = 0.0


class Spending(Protocol):
    """The budgets of a pipeline that its nodes share."""

    @property
    def limited(self) -> bool:
        """Whether there is a budget, so that prices have to be known."""

    def book(self, usd: float) -> None:
        """Book a cost without a reservation."""

    def paying(self, estimate: float) -> AbstractAsyncContextManager[Payment]:
        """Reserve USD for one call, and book its actual cost at the end of the block.

        Raises:
            FatalError: the budget has less left.
            StateError: the state store cannot be used.
        """


class NoSpending:
    """Spending without a pipeline, or without a budget."""

    limited = False

    def book(self, usd: float) -> None:
        """Count nothing."""

    @asynccontextmanager
    async def paying(self, estimate: float) -> AsyncGenerator[Payment, None]:
        yield Payment()
