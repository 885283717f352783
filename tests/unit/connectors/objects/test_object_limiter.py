"""The number of concurrent reads follows throughput."""

from __future__ import annotations

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


async def test_it_grows_while_more_gets_through() -> None:
    server = Server(16, 256, capacity=10_000)
    server.serve(60)
    assert server.limiter.limit == 256


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
