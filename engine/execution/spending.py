"""The budgets of a pipeline, for a run and for a day, shared by all its nodes, runs and workers.

A process takes a hundredth of the budget at a time from the state store and pays its calls from that, so that
calls do not need a write each. It returns the rest when its run ends. After a crash the rest counts as spent,
so a budget is never exceeded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Final

import anyio

from engine.contract.allowances import Draw, Payment
from engine.contract.clock import Clock
from engine.contract.lease import Lease, NoLease
from engine.errors import FatalError
from engine.state.store import StateStore

_PART: Final = 0.01  # share of a budget taken from the store at a time
_ROUNDING: Final = 1e-9  # USD


class PipelineSpending:
    """Implements `engine.contract.allowances.Spending`.

    Args:
        per_run: USD for one run, over all its attempts and workers.
        per_day: USD for all runs of the pipeline in one day, UTC.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Clock,
        pipeline: str,
        run_id: str,
        per_run: float | None,
        per_day: float | None,
        lease: Lease | None = None,
    ) -> None:
        self._store, self._clock, self._pipeline = store, clock, pipeline
        self._run = _Purse(f"usd/run/{run_id}", per_run, "budget_usd", "raise it") if per_run else None
        self._per_day = per_day
        self._lease = lease or NoLease()
        self._day: _Purse | None = None
        self._early = 0.0  # USD booked before the day's purse existed
        self._date: date | None = None
        self._lock = anyio.Lock()

    @property
    def limited(self) -> bool:
        return self._run is not None or self._per_day is not None

    def book(self, usd: float) -> None:
        for purse in (self._run, self._day):
            if purse is not None:
                purse.in_hand -= usd
        if self._day is None:
            self._early += usd

    @asynccontextmanager
    async def paying(self, estimate: float) -> AsyncGenerator[Payment, None]:
        await self._lease.confirm()
        purses = await self._reserve(estimate)
        payment = Payment()
        try:
            yield payment
        finally:
            for purse in purses:
                purse.in_hand += estimate - payment.usd

    async def close(self) -> None:
        """Return unspent money to the budgets. Raises `StateError`."""
        with anyio.CancelScope(shield=True):
            if self._early:
                await self._turn_day()
            for purse in (self._run, self._day):
                if purse is not None:
                    await self._return(purse)

    async def _reserve(self, estimate: float) -> list[_Purse]:
        """Reserve the amount in all purses or in none, and return those that reserved it."""
        if not self.limited:
            return []
        async with self._lock:
            await self._turn_day()
            purses = [one for one in (self._run, self._day) if one is not None]
            for purse in purses:
                await self._fill(purse, estimate)
            for purse in purses:
                purse.in_hand -= estimate
            return purses

    async def _turn_day(self) -> None:
        today = self._clock.now().date()
        if self._per_day is None or today == self._date:
            return
        if self._day is not None:
            await self._return(self._day)
        name = f"usd/day/{self._pipeline}/{today.isoformat()}"
        remedy = "raise it, or resume the run tomorrow (UTC)"
        self._day, self._date = _Purse(name, self._per_day, "budget_usd_per_day", remedy), today
        self._day.in_hand -= self._early
        self._early = 0.0

    async def _fill(self, purse: _Purse, estimate: float) -> None:
        """Take money from the store until the purse has this much in hand. Raises FatalError."""
        lacks = estimate - purse.in_hand
        if lacks <= 0:
            return
        if purse.in_hand < 0:  # calls cost more than was reserved for them
            await self._draw(purse, -purse.in_hand, force=True)
            lacks = estimate
        await self._draw(purse, max(lacks, purse.limit * _PART))
        if purse.in_hand < estimate - _ROUNDING:
            await self._return(purse)  # others may have smaller calls
            raise FatalError(
                f"what is left of the pipeline's `{purse.setting}` of {purse.limit:g} USD does not cover the "
                f"next call; {purse.remedy}",
                kind="budget",
            )

    async def _draw(self, purse: _Purse, amount: float, *, force: bool = False) -> None:
        # not interrupted, since money taken from the store must be counted here
        with anyio.CancelScope(shield=True):
            (granted,) = await self._store.draw(
                [Draw(purse.name, amount, purse.limit, force=force)], self._clock.now().timestamp()
            )
        purse.in_hand += granted

    async def _return(self, purse: _Purse) -> None:
        if abs(purse.in_hand) > _ROUNDING:
            amount = -purse.in_hand
            await self._draw(purse, amount, force=True)


class StoredAllowances:
    """Implements `engine.contract.allowances.Allowances` with the limits in a store."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def draw(self, draws: Sequence[Draw]) -> list[float]:
        return await self._store.draw(draws, self._clock.now().timestamp())


class _Purse:
    """A budget. `in_hand`: USD that this process has taken from the store but not reserved."""

    def __init__(self, name: str, limit: float, setting: str, remedy: str) -> None:
        self.name, self.limit, self.setting, self.remedy = name, limit, setting, remedy
        self.in_hand = 0.0
