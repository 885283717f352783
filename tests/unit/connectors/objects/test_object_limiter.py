"""The number of concurrent reads follows throughput."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from random import Random
from typing import Any

import pytest

from connectors.objects.limiter import AdaptiveLimiter
from connectors.s3 import S3Params

SIZE = 16 * 1024


class Server:
    """Reads `limit` objects a second each, `capacity` together, on a clock of its own."""

    def __init__(self, start: int, most: int, capacity: int) -> None:
        self.now = 0.0
        self.capacity = capacity
        self.limiter = AdaptiveLimiter(start, most, lambda: self.now)
        self.seen: set[int] = set()

    def serve(self, seconds: float, *, used: int = 10_000) -> None:
        until = self.now + seconds
        while self.now < until:
            busy = min(self.limiter.limit, used)
            holders = [object() for _ in range(busy)]
            for one in holders:
                self.limiter.slots.acquire_on_behalf_of_nowait(one)
            for one in holders:
                self.now += 1 / min(busy, self.capacity) / 10
                self.limiter.succeeded(SIZE)
                self.limiter.slots.release_on_behalf_of(one)
            self.seen.add(self.limiter.limit)


class Admitting:
    """Handles `admitted` requests at once, `service` seconds each.

    Others wait in line for `patience` seconds, or are refused if there is none.
    """

    def __init__(self, admitted: int, service: float, patience: float = 0.0) -> None:
        self.now = self.work = 0.0
        self.admitted, self.service, self.patience = admitted, service, patience
        self.limiter = AdaptiveLimiter(32, 256, lambda: self.now)
        self.begun: dict[int, int] = {}
        self.handled: set[int] = set()
        self.line = deque[int]()
        self.events: list[tuple[float, int, bool]] = []
        self.random, self.numbers = Random(1), count()

    def goodput(self, seconds: float) -> float:
        """The share of what it admits that was in use."""
        while self.now < seconds:
            while self.limiter.slots.borrowed_tokens < self.limiter.limit:
                self.begin(next(self.numbers))
            at, number, answered = heapq.heappop(self.events)
            self.work += len(self.handled) * (at - self.now)
            self.now = at
            if number in self.begun and answered == (number in self.handled):
                self.end(number, answered=answered)
        return self.work / (self.admitted * self.now)

    def begin(self, number: int) -> None:
        self.limiter.slots.acquire_on_behalf_of_nowait(number)
        self.begun[number] = self.limiter.reductions
        if len(self.handled) < self.admitted:
            self.handle(number)
        else:
            self.line.append(number)
            heapq.heappush(self.events, (self.now + (self.patience or 0.002), number, False))

    def handle(self, number: int) -> None:
        self.handled.add(number)
        done = self.now + self.service * self.random.uniform(0.8, 1.2)
        heapq.heappush(self.events, (done, number, True))

    def end(self, number: int, *, answered: bool) -> None:
        reductions = self.begun.pop(number)
        if answered:
            self.handled.remove(number)
            self.limiter.succeeded(SIZE)
        else:
            self.line.remove(number)
            self.limiter.slow_down(reductions)
        self.limiter.slots.release_on_behalf_of(number)
        if answered and self.patience and self.line:
            self.handle(self.line.popleft())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("admitted", "service", "patience", "seconds"),
    [(8, 0.012, 0.0, 5), (64, 0.05, 0.0, 20), (4, 0.2, 1.0, 20)],
    ids=["refuses", "refuses later", "is silent"],
)
async def test_nearly_all_that_is_admitted_is_used(
    admitted: int, service: float, patience: float, seconds: float
) -> None:
    assert Admitting(admitted, service, patience).goodput(seconds) >= 0.9


async def test_requests_in_flight_at_a_refusal_halve_it_once() -> None:
    server = Server(64, 64, capacity=10_000)
    server.now = 10.0
    before = server.limiter.reductions
    for _ in range(20):
        server.limiter.slow_down(before)
        server.now += 1
    assert server.limiter.limit == 32


@pytest.mark.slow
async def test_it_grows_while_more_gets_through() -> None:
    server = Server(16, 256, capacity=10_000)
    server.serve(60)
    assert server.limiter.limit == 256


@pytest.mark.slow
async def test_it_stays_where_more_requests_gain_nothing() -> None:
    server = Server(16, 256, capacity=60)
    server.serve(60)
    assert 50 <= server.limiter.limit <= 100
    assert max(server.seen) <= 120


async def test_requests_that_are_not_made_do_not_raise_it() -> None:
    server = Server(16, 256, capacity=10_000)
    server.serve(60, used=8)
    assert server.limiter.limit == 16


async def test_a_refusal_halves_it_but_not_for_each_request() -> None:
    server = Server(64, 64, capacity=10_000)
    server.now = 10.0
    for _ in range(10):
        server.limiter.slow_down()
    assert server.limiter.limit == 32
    server.now += 1
    server.limiter.slow_down()
    assert server.limiter.limit == 16


async def test_it_grows_slowly_after_a_refusal_and_falls_less() -> None:
    server = Server(16, 256, capacity=10_000)
    server.now = 10.0
    server.limiter.slow_down()
    assert server.limiter.limit == 8
    server.serve(6.5)
    grown = server.limiter.limit
    assert 8 + 10 <= grown <= 8 + 14
    server.limiter.slow_down()
    assert server.limiter.limit == grown - 1 - grown // 8


async def test_a_number_that_was_refused_is_left_alone_for_a_while() -> None:
    server = Server(16, 256, capacity=10_000)
    server.now = 10.0
    server.limiter.slow_down()
    server.serve(4)
    assert server.limiter.limit == 15  # 16 were refused
    server.serve(5)
    assert server.limiter.limit > 16


async def test_many_refusals_halve_it_again() -> None:
    server = Server(64, 64, capacity=10_000)
    server.now = 10.0
    for _ in range(20):
        server.limiter.slow_down()
    server.serve(1)
    grown = server.limiter.limit
    server.limiter.slow_down()
    assert server.limiter.limit == grown // 2


async def test_more_that_are_refused_cost_no_more_than_was_gained() -> None:
    server = Server(32, 256, capacity=10_000)
    server.serve(2)
    assert server.limiter.limit > 32
    server.limiter.slow_down()
    assert server.limiter.limit >= 32


async def test_it_does_not_grow_by_what_is_not_in_use() -> None:
    server = Server(64, 64, capacity=10_000)
    server.now = 10.0
    server.limiter.slow_down()
    server.serve(10, used=8)
    assert server.limiter.limit == 32


async def test_it_never_falls_below_one() -> None:
    server = Server(1, 4, capacity=10_000)
    for _ in range(3):
        server.now += 10
        server.limiter.slow_down()
    assert server.limiter.limit == 1


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, 256), ({"concurrency": 4}, 4), ({"concurrency": 4, "max_concurrency": 100}, 100),
        ({"concurrency": 40, "max_concurrency": 10}, 40), ({"max_concurrency": 64}, 64),
    ],
)  # fmt: skip
def test_a_given_concurrency_is_not_exceeded(given: dict[str, Any], most: int) -> None:
    assert S3Params(pattern="s3://bucket/*", **given).most_at_once == most
