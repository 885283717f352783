"""The concurrency window of an endpoint, learned from the outcomes of calls.

Additive increase, multiplicative decrease: the window grows while calls succeed as fast as the quickest ones
did, and shrinks when the endpoint throttles, fails, or only queues (vLLM and llama.cpp never throttle).
"""

from __future__ import annotations

from typing import Final

FIRST: Final = 4
"""Initial number of concurrent calls."""

MOST: Final = 256
_SUCCESSES: Final = 25  # to add one call, once a limit has been met
_THROTTLED: Final = 0.75
_QUEUEING: Final = 0.9
_WEIGHT: Final = 0.1  # weight of the latest call in the smoothed latency
_FORGETTING: Final = 0.0005  # drift of the best latency towards the smoothed one with each call
_SLOW: Final = 2.0  # times the best latency: stop growing
_VERY_SLOW: Final = 3.0
_SETTLED: Final = 10  # calls before latencies are compared


class Window:
    """The maximum number of concurrent calls. Latencies are in seconds.

    Until a limit is met it grows by one with each success, so it doubles in the time of a call.
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
        """Maximum concurrent calls, at least 1."""
        return max(1, int(self._size))

    def succeeded(self, latency: float, flying: int) -> None:
        """Record a successful call with this latency and number of calls in flight."""
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
            # an unfilled window shows nothing about a larger one
            self._resize(self._size + 1)

    def throttled(self) -> None:
        """Record a throttled call; calls that were in flight together count as one."""
        self._climbing = False
        if self._since_throttled:
            self._resize(self._size * _THROTTLED)
        self._since_throttled = 0

    def collapse(self) -> None:
        """Allow one call at a time until one succeeds."""
        self._climbing = True
        self._resize(1.0)

    def _resize(self, size: float) -> None:
        self._size = min(max(size, 1.0), float(MOST))
        self._since_change = 0
