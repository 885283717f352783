"""The gate of an endpoint: keeps all pipelines that use it within its requests and tokens per minute.

Limits are declared, or learned from the headers of answers (`x-ratelimit-limit-tokens` and the like). Each is
a bucket that fills continuously. A call takes one request and its estimated tokens before it is sent, and
returns what it did not use. What the endpoint reports of its own bucket overrides our count, which accounts
for other processes with the same quota. When the endpoint is overloaded, all calls wait together. A limit
that is declared, or learned and fills by the second, is shared with other processes through the state store:
a gate takes several calls' worth at a time. In addition, a window bounds the calls in flight, see
`connectors.llm.window`; when no call succeeds any more, they try one at a time, less and less often.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from connectors.llm.window import Window
from connectors.retry_after import server_time, until_seconds
from engine.contract.allowances import Allowances, Draw
from engine.contract.clock import Clock

BURST: Final = 10.0
"""Seconds' worth of a declared limit that may go out at once."""

MAX_PAUSE: Final = 120.0  # seconds, even if an endpoint asks for more: the engine handles longer outages
_MAX_SLEEP: Final = 5.0  # seconds between two checks of a bucket, which an answer's headers may fill
LEASE: Final = 2.0
"""Seconds' worth of a shared limit that a gate takes at a time, or four calls' worth if that is more."""

_LEASED_CALLS: Final = 4
_MAX_LEASE: Final = 0.25  # of what may go out at once
_POLL: Final = 1.0  # seconds between two checks of an exhausted shared limit
_SHORTEST_SLEEP: Final = 0.001  # seconds that are not worth waiting for
_TELLING: Final = 0.05  # share of a limit that must be used before the time of its reset shows how it fills
_CONTINUOUS: Final = 0.5  # of the rate at which a limit of a minute fills
_CAUTION: Final = 4.0  # times the usual surprise that is left in a bucket
_MAX_RESERVE: Final = 0.25  # of a bucket
_RELAXING: Final = 0.9998  # decay, with each call, of the reserve after a refusal
_LEARNING: Final = 0.05  # of the latest surprise in the usual one
_KINDS: Final = ("requests", "tokens")
COOLDOWN: Final = 1.0
"""Seconds to wait for an endpoint that throttles without a duration; doubled while it keeps throttling."""

_MAX_COOLDOWN: Final = 60.0
_BREAKER: Final = 5  # failures in a row after which one call at a time tries


class Bucket:
    """A bucket for one limit. `rate` is what it gains per second; without one it lets everything through.

    `level` may be below 0, when calls used more than estimated. `reserve` is left in it for other users of
    the quota, as far as they were noticed. `shared`: it does not fill over time, but from a limit that other
    processes share.
    """

    def __init__(self, per_minute: float | None, *, shared: bool = False) -> None:
        self.rate = per_minute / 60 if per_minute else None
        self.capacity = self.rate * BURST if self.rate else 0.0
        self.shared = shared and per_minute is not None
        self.level = 0.0 if self.shared else self.capacity
        self.in_flight = 0.0
        self.taken = 0.0
        self.reserve = 0.0
        self.caution = 0.0
        self._usual = 0.0
        self._declared = per_minute is not None
        self._at: float | None = None
        self._leased_at = self._next_lease = 0.0

    def refill(self, now: float) -> None:
        """Add what it has gained since the last call."""
        if self.shared and self.level > 0 and now - self._leased_at > BURST:
            self.level = 0.0  # others have used it by now
        elif not self.shared and self.rate is not None and self._at is not None:
            self.level = min(self.capacity, self.level + (now - self._at) * self.rate)
        self._at = now

    def wait(self, amount: float) -> float:
        """Return the seconds until it holds `amount` above its reserve, or is full if that is less."""
        if self.rate is None:
            return 0.0
        lacks = self._needed(amount) - self.level
        return 0.0 if lacks <= 0 else max(lacks / self.rate, self._next_lease - self._now)

    @property
    def _now(self) -> float:
        return self._at or 0.0

    def lease(self, name: str, amount: float) -> Draw | None:
        """Return what to take from the shared limit for a call that needs `amount`; None for nothing."""
        lacks = self._needed(amount) - self.level
        if not self.shared or self.rate is None or lacks <= 0 or self._now < self._next_lease:
            return None
        several = min(max(self.rate * LEASE, _LEASED_CALLS * amount), self.capacity * _MAX_LEASE)
        return Draw(name, max(lacks, several), self.capacity, self.rate)

    def leased(self, wanted: float, granted: float, now: float) -> None:
        """Add what was granted of the requested amount."""
        self.level += granted
        self._leased_at = now
        if granted < wanted:
            self._next_lease = now + _POLL

    def _needed(self, amount: float) -> float:
        return min(amount + max(self.reserve, self.caution), self.capacity)

    def take(self, amount: float) -> None:
        """Remove the estimated need of a call."""
        self.level -= amount
        self.taken += amount
        self._usual += (amount - self._usual) * _LEARNING if self._usual else amount
        self.in_flight += amount

    def refused(self) -> None:
        """Reserve three more calls' worth, since the endpoint had less than expected."""
        if self.rate is not None:
            self.caution = min(self.caution + 3 * self._usual, self.capacity * _MAX_RESERVE)

    def settle(self, taken: float, used: float) -> None:
        """Replace a finished call's estimate by its real use."""
        self.in_flight -= taken
        self.caution *= _RELAXING
        self.taken += used - taken
        self.level += taken - used

    def learn(
        self,
        limit: float,
        remaining: float,
        reset: float | None,
        *,
        age: float = 0.0,
        taken_since: float | None = None,
        share: bool = False,
    ) -> None:
        """Learn from the endpoint's report of its bucket. A declared limit is only ever lowered.

        Args:
            share: whether a limit that fills in a minute can be shared with other processes.
            age: seconds since the call was sent, which is when the endpoint checked its bucket.
            taken_since: amount taken since then; None if unknown, in which case the endpoint may not have
                counted any call in flight.
        """
        used = limit - remaining
        rate = limit / 60
        if reset and used > limit * _TELLING:
            rate = min(rate, used / reset)  # a limit of a day fills more slowly
        if not self._declared or (self.rate is not None and rate < self.rate):
            self.rate, self.capacity = rate, limit
        if share and not self._declared:
            # a daily limit, or one that resets each minute, does not fill by the second
            self._share(rate >= limit / 60 * _CONTINUOUS)
        since = self.in_flight if taken_since is None else taken_since - age * (self.rate or 0.0)
        level = min(remaining - since, self.capacity)
        # use by others is unexpected, so some is reserved for the next one
        surprise = max(0.0, self.level - level) if self.rate is not None and taken_since is not None else 0.0
        self.reserve += (min(surprise * _CAUTION, self.capacity * _MAX_RESERVE) - self.reserve) * _LEARNING
        self.level = level if not (self._declared or self.shared) else min(self.level, level)

    def _share(self, shared: bool) -> None:
        if shared and self.rate is not None:
            self.capacity = self.rate * BURST
            if not self.shared:
                self.level = min(self.level, 0.0)  # the store holds the rest now
        self.shared = shared


@dataclass(slots=True)
class Pass:
    """A call in flight. Set `used` to the tokens that it used, if known."""

    tokens: float
    used: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """When a request was sent, and what had been taken from the buckets by then."""

    at: float
    taken: Mapping[str, float]


class Gate:
    """Delays calls until the quota allows them, in order. There is one per endpoint, model and key.

    Args:
        allowances: store for limits shared with other processes; None shares nothing.
        name: name of the limits in that store.
        bounded: limit the calls in flight.

    Attributes:
        clock: clock for waiting.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        allowances: Allowances | None = None,
        name: str = "",
        bounded: bool = True,
    ) -> None:
        self.clock = clock
        self._bounded = bounded
        self._allowances, self._name = allowances, name
        shared = allowances is not None
        self._requests = Bucket(requests_per_minute, shared=shared)
        self._tokens = Bucket(tokens_per_minute, shared=shared)
        self._buckets = {"requests": self._requests, "tokens": self._tokens}
        self._line = anyio.Lock()
        self._closed_until = 0.0
        self._heard_of = -1.0
        self._window = Window()
        self._flying = 0
        self._landed = anyio.Event()
        self._failures = 0

    @property
    def window(self) -> int:
        """Maximum concurrent calls at present."""
        return self._window.size

    @asynccontextmanager
    async def call(self, tokens: float, check: Callable[[], None] = lambda: None) -> AsyncIterator[Pass]:
        """Wait until a call of so many tokens may be sent; afterwards return what it did not use.

        `check` is called while the call waits and before it is sent, and may raise.
        """
        async with self._line:
            await self._room(tokens, check)
            self._requests.take(1)
            self._tokens.take(tokens)
            self._flying += 1
        passing = Pass(tokens)
        try:
            yield passing
        finally:
            self._flying -= 1
            self._landed.set()
            self._requests.settle(1, 1)
            self._tokens.settle(tokens, tokens if passing.used is None else passing.used)

    async def _room(self, tokens: float, check: Callable[[], None]) -> None:
        while True:
            check()
            while self._bounded and self._flying >= self._window.size:
                self._landed = anyio.Event()
                await self._landed.wait()
                check()
            now = self.clock.monotonic()
            for bucket in self._buckets.values():
                bucket.refill(now)
            if self._closed_until <= now:
                await self._lease(tokens)
            wait = max(self._closed_until - now, self._requests.wait(1), self._tokens.wait(tokens))
            if wait < _SHORTEST_SLEEP:
                return
            await self.clock.sleep(min(wait, _MAX_SLEEP))

    async def _lease(self, tokens: float) -> None:
        """Take what the next calls need from the shared limits."""
        if self._allowances is None:
            return
        needs = {"requests": 1.0, "tokens": tokens}
        draws = {
            kind: one
            for kind, bucket in self._buckets.items()
            if (one := bucket.lease(f"quota/{self._name}/{kind}", needs[kind])) is not None
        }
        if not draws:
            return
        granted = await self._allowances.draw(list(draws.values()))
        now = self.clock.monotonic()
        for (kind, wanted), amount in zip(draws.items(), granted, strict=True):
            self._buckets[kind].leased(wanted.amount, amount, now)

    def pause(self, seconds: float) -> None:
        """Hold all calls for so long, because the endpoint is overloaded."""
        until = self.clock.monotonic() + min(seconds, MAX_PAUSE)
        self._closed_until = max(self._closed_until, until)

    def succeeded(self, latency: float) -> None:
        """Record a call that was answered after so many seconds."""
        self._failures = 0
        self._window.succeeded(latency, self._flying)

    def throttled(self, wait: float | None) -> None:
        """Record a call that was refused as one too many; `wait` is the requested delay in seconds."""
        self._failures += 1
        for bucket in self._buckets.values():
            bucket.refused()
        if all(bucket.rate is None for bucket in self._buckets.values()):
            self._window.throttled()  # a known quota needs no smaller window
        growing = COOLDOWN * 2.0 ** min(max(self._failures - self._window.size, 0), 6)
        self.pause(min(growing, _MAX_COOLDOWN) if wait is None else wait)

    def failed(self) -> None:
        """Record a call that failed for a reason other than its content."""
        self._failures += 1
        if self._failures >= max(_BREAKER, self._flying + 1):
            self._window.collapse()
            self.pause(min(COOLDOWN * 2.0 ** min(self._failures - _BREAKER, 6), _MAX_COOLDOWN))

    def mark(self) -> Mark:
        """Record what was taken before a request is sent."""
        taken = {kind: bucket.taken for kind, bucket in self._buckets.items()}
        return Mark(self.clock.monotonic(), taken)

    def hear(self, headers: Mapping[str, str], mark: Mark | None = None) -> None:
        """Learn limits from the answer to a request; outdated ones are ignored."""
        now = self.clock.monotonic()
        if mark is not None:
            if mark.at < self._heard_of:
                return
            self._heard_of = mark.at
        for kind in _KINDS:
            for form in _HEADERS:
                names = [form.format(said=one, kind=kind, short=kind[:3]) for one in _SAID]
                limit, remaining = (_number(headers.get(name)) for name in names[:2])
                if limit and remaining is not None:
                    reset = until_seconds(headers.get(names[2], ""), server_time(headers, self.clock.now()))
                    bucket = self._buckets[kind]
                    bucket.refill(now)
                    since = None if mark is None else bucket.taken - mark.taken[kind]
                    age = 0.0 if mark is None else now - mark.at
                    share = self._allowances is not None
                    bucket.learn(limit, remaining, reset, age=age, taken_since=since, share=share)


_SAID: Final = ("limit", "remaining", "reset")
_HEADERS: Final = (
    "x-ratelimit-{said}-{kind}",
    "x-ratelimit-{said}-{kind}-minute",  # Cerebras
    "x-ratelimit-{said}-{short}-minute",  # Mistral's requests
    "anthropic-ratelimit-{kind}-{said}",
)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
