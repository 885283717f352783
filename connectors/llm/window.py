"""How many calls may be out at once, learned from what comes of them.

Additive increase, multiplicative decrease: the window grows while calls succeed as fast as the quickest ones
did, and shrinks when the endpoint throttles, fails, or only queues (vLLM and llama.cpp never throttle).
"""

from __future__ import annotations

from typing import Final

__all__ = ["Window"]

FIRST: Final = 4
"""Calls out at once at first."""

MOST: Final = 256
_SUCCESSES: Final = 25  # for one call more, once a limit has been met
_THROTTLED: Final = 0.75
_QUEUEING: Final = 0.9
_WEIGHT: Final = 0.1  # of the latest call in the smoothed latency
_FORGETTING: Final = 0.0005  # how far the best latency moves to the smoothed one with each call
_SLOW: Final = 2.0  # times the best latency: grow no more
_VERY_SLOW: Final = 3.0
_SETTLED: Final = 10  # calls before latencies are compared


class Window:
    """The number of calls that may be out. Latencies are in seconds.

    Until a limit is met it grows by one with each success, and so doubles in the time of a call.
    """

    def __init__(self) -> None:
        self._size = float(FIRST)
        self._climbing = True
        self._since_change = 0
        self._since_throttled = 1
        self._smoothed = 0.0
        self._best = 0.0
        self._calls = 0

    @property
    def size(self) -> int:
        """Calls that may be out at once, at least 1."""
        return max(1, int(self._size))

    def succeeded(self, latency: float, flying: int) -> None:
        """A call of this latency got its answer while so many were out."""
        self._calls += 1
        self._since_change += 1
        self._since_throttled += 1
        self._smoothed += (latency - self._smoothed) * max(_WEIGHT, 1 / self._calls)
        if self._calls == _SETTLED or (self._calls > _SETTLED and self._smoothed < self._best):
            self._best = self._smoothed
        self._best += (self._smoothed - self._best) * _FORGETTING
        slow = self._calls > _SETTLED and self._smoothed > _SLOW * self._best
        if slow:
            self._climbing = False
            if self._smoothed > _VERY_SLOW * self._best and self._since_change >= self.size:
                self._resize(self._size * _QUEUEING)
        elif flying >= self.size - 1 and (self._climbing or self._since_change >= _SUCCESSES):
            # what is not used up says nothing about what more would do
            self._resize(self._size + 1)

    def throttled(self) -> None:
        """The endpoint has too much to do; calls that were out together count as one."""
        self._climbing = False
        if self._since_throttled:
            self._resize(self._size * _THROTTLED)
        self._since_throttled = 0

    def collapse(self) -> None:
        """Nothing gets through: one call at a time, until one does."""
        self._climbing = True
        self._resize(1.0)

    def _resize(self, size: float) -> None:
        self._size = min(max(size, 1.0), float(MOST))
        self._since_change = 0
