"""The memory budget: bytes in flight, bounded. Reserved by `paging`, or by sources with `reserves = True`.

A source reserves before it reads; the reservation is released when everything derived from that read has been
acknowledged. There are two levels: each pipeline has its own budget, and bytes above its floor also count
against the budget of the process, so a pipeline can neither starve the others nor be starved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import anyio

from engine.contract.types import Reservation
from engine.flow.stats import NodeStats, Waiting

DEFAULT_FLOOR = 4 * 1024 * 1024


class ProcessBudget:
    """The budget in bytes that all pipelines of a process share above their floors.

    Waiting pipelines are served in order, so a busy one cannot starve another by retaking every byte that it
    returns.

    Raises:
        ValueError: the budget is not positive.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the memory of an engine must be at least 1 byte, got {capacity}")
        self.capacity = capacity
        self.in_use = 0
        self._members: list[ByteBudget] = []
        self._queue: deque[ByteBudget] = deque()

    def pipeline(self, capacity: int, floor: int = DEFAULT_FLOOR) -> ByteBudget:
        """Create the budget of one pipeline; `close()` it after the run."""
        budget = ByteBudget(capacity, floor=floor, process=self)
        self._members.append(budget)
        return budget

    def leave(self, budget: ByteBudget) -> None:
        """Remove a pipeline."""
        if budget in self._members:
            self._members.remove(budget)
        self.dequeue(budget)

    @property
    def waiting(self) -> bool:
        """Whether a pipeline is waiting for room."""
        return bool(self._queue)

    def __contains__(self, budget: object) -> bool:
        return budget in self._queue

    def allows(self, budget: ByteBudget, more: int) -> bool:
        """Return whether `budget` may now take `more` bytes above its floor."""
        if self._queue and self._queue[0] is not budget:
            return False
        # a request above the whole process budget must still be granted, alone
        return self.in_use + more <= self.capacity or self.in_use == 0

    def enqueue(self, budget: ByteBudget) -> None:
        """Queue `budget`, and make every pipeline flush its partial batches."""
        if budget in self._queue:
            return
        self._queue.append(budget)
        for member in self._members:
            member.announce()

    def dequeue(self, budget: ByteBudget) -> None:
        """Remove `budget` from the queue."""
        if budget in self._queue:
            self._queue.remove(budget)
        self.wake()

    def wake(self) -> None:
        """Grant released bytes to the longest waiting budget."""
        if self._queue:
            self._queue[0].wake()


@dataclass(slots=True)
class _Waiter:
    nbytes: int
    granted: anyio.Event


class ByteBudget:
    """The memory budget of one pipeline, granted first come, first served.

    Args:
        capacity: bytes. A larger single reservation counts as the whole capacity, so that it can be granted.
        floor: bytes that do not count against the process's budget.
    """

    def __init__(
        self, capacity: int, *, floor: int = DEFAULT_FLOOR, process: ProcessBudget | None = None
    ) -> None:
        if capacity <= 0:
            raise ValueError("a byte budget must be positive")
        self.capacity = capacity
        self.floor = min(floor, capacity)
        self.in_use = 0
        self.peak = 0
        self._process = process
        self._above_floor = 0
        self._waiters: deque[_Waiter] = deque()
        self._on_wait: list[Callable[[], None]] = []

    @property
    def waiting(self) -> bool:
        """Whether a reservation is waiting; then no node may hold back records to fill a batch."""
        return bool(self._waiters) or (self._process is not None and self._process.waiting)

    def on_wait(self, callback: Callable[[], None]) -> None:
        """Register a callback for when a reservation starts to wait (batchers flush then)."""
        self._on_wait.append(callback)

    async def reserve(self, nbytes: int) -> BudgetReservation:
        """Wait in turn until `nbytes` fit."""
        reservation = self.try_reserve(nbytes)
        if reservation is not None:
            return reservation
        amount = min(max(nbytes, 0), self.capacity)
        waiter = _Waiter(amount, anyio.Event())
        self._waiters.append(waiter)
        self._queue_up()
        self.announce()
        try:
            await waiter.granted.wait()
        except BaseException:
            if waiter.granted.is_set():
                self.give_back(amount)
            else:
                self._waiters.remove(waiter)
                self.wake()
            raise
        return BudgetReservation(self, amount)

    def try_reserve(self, nbytes: int) -> BudgetReservation | None:
        """Return a reservation if it fits now and none is waiting, else None."""
        if self._waiters:
            return None
        if 0 <= nbytes <= self.floor - self.in_use:
            amount = nbytes  # below the floor no permission is needed
        else:
            amount = min(max(nbytes, 0), self.capacity)
            if not self._fits(amount):
                return None
        self._take(amount)
        return BudgetReservation(self, amount)

    def wake(self) -> None:
        """Grant waiting reservations in turn, as far as they fit."""
        process = self._process
        while self._waiters and self._fits(self._waiters[0].nbytes):
            waiter = self._waiters.popleft()
            self._take(waiter.nbytes)
            waiter.granted.set()
            if process is not None and self in process:
                process.dequeue(self)  # and to the end of the queue, if more is waiting here
        self._queue_up()

    def announce(self) -> None:
        """Call the callbacks for a waiting reservation."""
        for callback in self._on_wait:
            callback()

    def _queue_up(self) -> None:
        """Queue in the process's budget exactly while the first waiter lacks only room there."""
        process = self._process
        if process is None:
            return
        first = self._waiters[0].nbytes if self._waiters else 0
        if self._waiters and self.in_use + first <= self.capacity and self._more_above_floor(first):
            process.enqueue(self)
        elif self in process:
            process.dequeue(self)

    def close(self) -> None:
        """Return all bytes to the process after the run."""
        if self._process is not None:
            self._process.in_use -= self._above_floor
            self.in_use = self._above_floor = 0
            process, self._process = self._process, None
            process.leave(self)

    def _fits(self, nbytes: int) -> bool:
        in_use = self.in_use + nbytes
        if in_use > self.capacity:
            return False
        if self._process is None or in_use <= self.floor:
            return True
        more = self._more_above_floor(nbytes)
        return more == 0 or self._process.allows(self, more)

    def _more_above_floor(self, nbytes: int) -> int:
        return max(0, self.in_use + nbytes - self.floor) - self._above_floor

    def _take(self, nbytes: int) -> None:
        self.in_use = in_use = self.in_use + nbytes
        if in_use > self.peak:
            self.peak = in_use
        above, before = in_use - self.floor, self._above_floor
        if above <= 0:
            if not before:
                return  # by far the usual case: the process budget is not affected
            above = 0
        self._above_floor = above
        if self._process is not None:
            self._process.in_use += above - before

    def give_back(self, nbytes: int) -> None:
        """Release bytes to waiting reservations."""
        above = self._above_floor
        if not above and not self._waiters:
            self.in_use -= nbytes
            return
        self._take(-nbytes)
        if self._waiters:
            self.wake()
        if above and self._process is not None:
            self._process.wake()

    def grow(self, nbytes: int) -> None:
        """Take more bytes without waiting."""
        self._take(nbytes)
        if self._waiters:
            self._queue_up()


class BudgetReservation(Reservation):
    """Reserved bytes; `release` is idempotent."""

    __slots__ = ("_budget", "nbytes")

    def __init__(self, budget: ByteBudget, nbytes: int) -> None:
        self._budget = budget
        self.nbytes = nbytes

    def resize(self, nbytes: int) -> None:
        """Correct the size without waiting; growth may push the budget over its capacity."""
        more = nbytes - self.nbytes
        if not more:
            return
        self.nbytes = nbytes
        if more > 0:
            self._budget.grow(more)
        else:
            self._budget.give_back(-more)

    def grow(self, nbytes: int) -> None:
        """Take `nbytes` more without waiting."""
        self.resize(self.nbytes + nbytes)

    def release(self) -> None:
        """Release the bytes."""
        if self.nbytes:
            nbytes, self.nbytes = self.nbytes, 0
            self._budget.give_back(nbytes)


class WatchedAllowance:
    """A source's view of the byte budget, which records waits in the source's stats."""

    def __init__(self, budget: ByteBudget, stats: NodeStats) -> None:
        self._budget = budget
        self._stats = stats

    async def reserve(self, nbytes: int) -> Reservation:
        reservation = self._budget.try_reserve(nbytes)
        if reservation is not None:
            return reservation
        started = perf_counter()
        try:
            with self._stats.waits(Waiting.MEMORY):
                return await self._budget.reserve(nbytes)
        finally:
            self._stats.blocked += perf_counter() - started
