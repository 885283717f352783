"""How many objects are read at once: more while more gets through, half as many when the server refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable

import anyio

__all__ = ["AdaptiveLimiter"]

REDUCE_EVERY = 0.5
"""Seconds after which another refusal for load reduces the concurrency again."""

GROW_EVERY = 0.5
"""Seconds for one request more after a refusal, at least."""

RETRY_CEILING = 5.0
"""Seconds after which a number is tried again that was refused."""

WINDOW = 0.5
"""Seconds for which a number of requests is tried before another one is."""

GAIN = 1.08
"""By how much more has to get through for a higher number to be kept."""

HOLD = 20.0
"""Seconds after which a higher number is tried again that gained nothing."""

OBJECT_BYTES = 64 * 1024
"""What reading an object costs beside its bytes, in bytes."""


class AdaptiveLimiter:
    """Requests at once, by what gets through.

    It begins with `start`, tries a quarter more while all are in use, and keeps that while it gains. A
    refusal for load halves the number, and later ones halve it again while many requests are refused; a few
    take an eighth. Then it grows by one at a time, and leaves the number that was refused alone for a while.

    Args:
        most: requests at once, at most; `start` or less: it only falls, and comes back.

    Attributes:
        slots: one is held for each request.
    """

    def __init__(self, start: int, most: int, clock: Callable[[], float] = anyio.current_time) -> None:
        self.slots = anyio.CapacityLimiter(start)
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
        """Groups of objects that are read at once: more where some wait because they were refused."""
        return self._most if self._refused else self.limit

    @property
    def limit(self) -> int:
        """Requests at once, now."""
        return int(self.slots.total_tokens)

    def succeeded(self, nbytes: int) -> None:
        """An object of so many bytes was read; its slot is still held."""
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

    def slow_down(self) -> None:
        """The server has refused a request because it has too much to do, or was silent."""
        now = self._clock()
        if now - self._reduced_at >= REDUCE_EVERY:
            limit = self.limit
            lower = max(1, limit // 2)
            if not self._refused and self._before[1]:
                lower = max(lower, self._before[0])  # which was not refused
            elif self._refused and self._refusals <= limit // 8:
                lower = max(1, limit - 1 - limit // 8)
            self._reduced_at, self._refused, self._grow_from = now, True, now + GROW_EVERY
            self._ceiling, self._ceiling_until = limit, now + RETRY_CEILING
            self._refusals = 0
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
        """Try more if what is tried now gains, otherwise return to what was tried before."""
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
        # what is under way still belongs to the number before
        self._began_at = None

    def _begin(self, now: float) -> None:
        self._began_at, self._goodput, self._successes, self._full = now, 0, 0, False

    def _set(self, limit: int) -> None:
        self._successes = self._goodput = 0
        self._full = False
        if limit != self.limit:
            self.slots.total_tokens = limit
