"""The gate of an endpoint: how many requests and tokens it takes a minute, for all pipelines that ask it.

Limits are declared, or learned from what the endpoint says with each answer (`x-ratelimit-limit-tokens` and
its like). Each is a bucket that fills continuously. A call takes out one request and its estimated tokens
before it is sent, and puts back what it did not use. What the endpoint says of its own bucket wins over our
reckoning. When it says that it has too much to do, all calls wait together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from connectors.llm.waiting import until_seconds
from engine.contract.clock import Clock

__all__ = ["Bucket", "Gate", "Pass"]

BURST: Final = 10.0
"""Seconds' worth of a declared limit that may go out at once."""

MAX_PAUSE: Final = 120.0  # seconds, whatever an endpoint asks for: the engine looks after longer outages
_MAX_SLEEP: Final = 5.0  # seconds between two looks at a bucket, which may be filled by what is heard
_SHORTEST_SLEEP: Final = 0.001  # seconds that are not worth waiting for
_TELLING: Final = 0.05  # share of a limit that has to be used before the time of its reset says how it fills
_KINDS: Final = ("requests", "tokens")


class Bucket:
    """One limit. `rate` is what it gains a second; without one it lets everything through.

    `level` may be below 0: what was used was more than was estimated.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.rate = per_minute / 60 if per_minute else None
        self.capacity = self.rate * BURST if self.rate else 0.0
        self.level = self.capacity
        self.in_flight = 0.0
        self._declared = per_minute is not None
        self._at: float | None = None

    def refill(self, now: float) -> None:
        """Add what it has gained since the last look."""
        if self.rate is not None and self._at is not None:
            self.level = min(self.capacity, self.level + (now - self._at) * self.rate)
        self._at = now

    def wait(self, amount: float) -> float:
        """Seconds until it holds `amount`, or is full if that is less."""
        if self.rate is None:
            return 0.0
        return max(0.0, min(amount, self.capacity) - self.level) / self.rate

    def take(self, amount: float) -> None:
        """Take out what a call is estimated to need."""
        self.level -= amount
        self.in_flight += amount

    def settle(self, taken: float, used: float) -> None:
        """A call that took so much has ended and used so much."""
        self.in_flight -= taken
        self.level += taken - used

    def learn(self, limit: float, remaining: float, reset: float | None) -> None:
        """What the endpoint says of its own bucket. A declared limit stays, unless the other one is lower."""
        used = limit - remaining
        rate = limit / 60
        if reset and used > limit * _TELLING:
            rate = used / reset
        if not self._declared or (self.rate is not None and rate < self.rate):
            self.rate, self.capacity = rate, limit
        # what is out is not all in their reckoning yet
        level = remaining - self.in_flight
        self.level = level if not self._declared else min(self.level, level)


@dataclass(slots=True)
class Pass:
    """A call on its way. Set `used` to the tokens that it took, when that is known."""

    tokens: float
    used: float | None = None


class Gate:
    """Waits for room before a call. One for each endpoint, model and key; calls pass in order."""

    def __init__(
        self,
        clock: Clock,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._clock = clock
        self._requests, self._tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self._buckets = {"requests": self._requests, "tokens": self._tokens}
        self._line = anyio.Lock()
        self._closed_until = 0.0

    @asynccontextmanager
    async def call(self, tokens: float) -> AsyncIterator[Pass]:
        """Wait until a call of so many tokens may go out; give back what it does not use."""
        async with self._line:
            await self._room(tokens)
            self._requests.take(1)
            self._tokens.take(tokens)
        passing = Pass(tokens)
        try:
            yield passing
        finally:
            self._requests.settle(1, 1)
            self._tokens.settle(tokens, tokens if passing.used is None else passing.used)

    async def _room(self, tokens: float) -> None:
        while True:
            now = self._clock.monotonic()
            for bucket in self._buckets.values():
                bucket.refill(now)
            wait = max(self._closed_until - now, self._requests.wait(1), self._tokens.wait(tokens))
            if wait < _SHORTEST_SLEEP:
                return
            await self._clock.sleep(min(wait, _MAX_SLEEP))

    def pause(self, seconds: float) -> None:
        """The endpoint has too much to do: let nothing through for so long."""
        until = self._clock.monotonic() + min(seconds, MAX_PAUSE)
        self._closed_until = max(self._closed_until, until)

    def hear(self, headers: Mapping[str, str]) -> None:
        """Learn the limits that an answer tells."""
        now = self._clock.monotonic()
        for kind in _KINDS:
            for prefix, infix in (("x-ratelimit-", ""), ("anthropic-ratelimit-", kind)):
                names = [f"{prefix}{kind}-{one}" if infix else f"{prefix}{one}-{kind}" for one in _SAID]
                limit, remaining = (_number(headers.get(name)) for name in names[:2])
                if limit and remaining is not None:
                    bucket = self._buckets[kind]
                    bucket.refill(now)
                    bucket.learn(
                        limit, remaining, until_seconds(headers.get(names[2], ""), self._clock.now())
                    )


_SAID: Final = ("limit", "remaining", "reset")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
