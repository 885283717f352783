"""The number of concurrent reads: grows while throughput grows, halves when the server refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable

import anyio

REDUCE_EVERY = 0.5
"""Seconds after which another overload response reduces the concurrency again."""

GROW_EVERY = 0.5
"""Minimum seconds per added request after a refusal."""

RETRY_CEILING = 5.0
"""Seconds before a refused number is tried again."""

WINDOW = 0.5
"""Seconds for which each number of requests is tried."""

GAIN = 1.08
"""Minimum gain in throughput for keeping a higher number."""

HOLD = 20.0
"""Seconds before a higher number without a gain is tried again."""

OBJECT_BYTES = 64 * 1024
"""Fixed cost of reading an object, in bytes."""


class AdaptiveLimiter:
    """Adapts the number of concurrent requests to throughput.

    It begins with `start`, tries a quarter more while all slots are in use, and keeps that if throughput
    grows. An overload response halves the number, and later ones halve it again while many requests are
    refused; few refusals reduce it by an eighth. Then it grows by one at a time, staying below the refused
    number for a while. Requests that began before a reduction say nothing about the reduced number.

    Args:
        most: maximum concurrent requests; with `start` or less, the number only falls and recovers.

    Attributes:
        slots: limiter with one slot per request.
        reductions: how often the number was reduced.
    """

    def __init__(self, start: int, most: int, clock: Callable[[], float] = anyio.current_time) -> None:
        self.slots = anyio.CapacityLimiter(start)
        self.reductions = 0
        self._most = max(start, most)
        self._clock = clock
        self._successes = 0
        self._goodput = 0
        self._began_at: float | None = None
        self._full = False
        self._refused = False
        self._before = (start, 0.0)
        self._hold_until = 0.0
        self._reduced_at = -REDUCE_EVERY
        self._refusals = 0
        self._ceiling = sys.maxsize
        self._ceiling_until = self._grow_from = 0.0

    @property
    def groups(self) -> int:
        """Concurrent groups of objects: more if some wait because they were refused."""
        return self._most if self._refused else self.limit

    @property
    def limit(self) -> int:
        """The current number of concurrent requests."""
        return int(self.slots.total_tokens)

    def succeeded(self, nbytes: int) -> None:
        """Record an object of this size that was read; its slot is still held."""
        limit = self.limit
        if limit >= self._most:
            return
        self._successes += 1
        self._full = self._full or self.slots.borrowed_tokens >= limit
        if self._refused:
            if self._successes >= limit and self._full and (now := self._clock()) >= self._grow_from:
                self._grow(limit + 1, now)
            return
        self._goodput += OBJECT_BYTES + max(nbytes, 0)
        if self._successes >= limit and self._full:
            self._judge(limit, self._clock())

    def slow_down(self, before: int | None = None) -> None:
        """Record a request that the server refused because of overload, or did not answer.

        Args:
            before: `reductions` when the request began; None for now.
        """
        if before is not None and before < self.reductions:
            return  # one overload fails all requests that are under way, some of them much later
        now = self._clock()
        if now - self._reduced_at >= REDUCE_EVERY:
            limit = self.limit
            lower = max(1, limit // 2)
            if not self._refused and self._before[1]:
                lower = max(lower, self._before[0])  # only a lower number, which was not refused
            elif self._refused and self._refusals <= limit // 8:
                lower = max(1, limit - 1 - limit // 8)
            self._reduced_at, self._refused, self._grow_from = now, True, now + GROW_EVERY
            self._ceiling, self._ceiling_until = limit, now + RETRY_CEILING
            self._refusals = 0
            self.reductions += 1
            self._set(lower)
        else:
            self._refusals += 1

    def _grow(self, limit: int, now: float) -> None:
        if limit >= self._ceiling:
            if now < self._ceiling_until:
                return
            self._ceiling = sys.maxsize
        self._grow_from = now + GROW_EVERY
        self._set(limit)

    def _judge(self, limit: int, now: float) -> None:
        """Try more if the current number gains, otherwise return to the previous one."""
        if self._began_at is None or now < self._hold_until:
            self._begin(now)
            return
        seconds = now - self._began_at
        if seconds < WINDOW:
            return
        rate = self._goodput / seconds
        before, rate_before = self._before
        if rate >= GAIN * rate_before:
            self._before = limit, rate
            self._set(min(self._most, limit + max(4, limit // 4)))
        else:
            self._before = before, 0.0
            self._hold_until = now + HOLD
            self._set(before)
        # requests in flight still belong to the previous number
        self._began_at = None

    def _begin(self, now: float) -> None:
        self._began_at, self._goodput, self._successes, self._full = now, 0, 0, False

    def _set(self, limit: int) -> None:
        self._successes = self._goodput = 0
        self._full = False
        if limit != self.limit:
            self.slots.total_tokens = limit
