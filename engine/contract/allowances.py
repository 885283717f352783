"""Limits that all processes with the same state share: an endpoint's quota, and what may be spent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Allowances", "Draw", "NoSpending", "Payment", "Spending"]


@dataclass(frozen=True, slots=True)
class Draw:
    """What one process wants of a shared limit.

    Args:
        name: of the limit, the same in all processes.
        amount: at most so much; below 0 it gives back.
        capacity: so much may be taken in all.
        rate: so much of what was taken is free again each second; 0 is for a budget.
        force: take all of it even if there is less: it has been used already.
    """

    name: str
    amount: float
    capacity: float
    rate: float = 0.0
    force: bool = False


class Allowances(Protocol):
    """Shared limits in the state store. A call is a transaction: take enough for a while."""

    async def draw(self, draws: Sequence[Draw]) -> list[float]:
        """Return how much of each was granted, from 0 to its amount. Raises `StateError`."""
        ...


@dataclass(slots=True)
class Payment:
    """A call that is being paid for. Set `usd` to what it has cost; 0 if it failed."""

    usd: float = 0.0


class Spending(Protocol):
    """The budgets of a pipeline that its nodes share."""

    @property
    def limited(self) -> bool:
        """Whether there is any budget, so that prices have to be known."""
        ...

    def book(self, usd: float) -> None:
        """Book what was paid without a reservation."""
        ...

    def paying(self, estimate: float) -> AbstractAsyncContextManager[Payment]:
        """Reserve so many USD for one call, and book what it has cost at the end of the block.

        Raises:
            FatalError: less is left.
            StateError: the state cannot be used.
        """
        ...


class NoSpending:
    """For a component without a pipeline, or with one that has no budget."""

    limited = False

    def book(self, usd: float) -> None:
        """Count nothing."""

    @asynccontextmanager
    async def paying(self, estimate: float) -> AsyncGenerator[Payment, None]:
        yield Payment()
