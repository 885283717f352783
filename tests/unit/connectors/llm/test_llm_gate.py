"""The gate of an endpoint: declared and learned limits, common waits, and use of the quota."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from connectors.llm.gate import Bucket, Gate
from engine.contract.shared import Shared
from engine.testing import ScriptedClock


async def passes(
    gate: Gate, clock: ScriptedClock, tokens: list[float], used: float | None = None
) -> list[float]:
    """When each of these calls goes out, one after another."""
    moments = []
    for one in tokens:
        async with gate.call(one) as passing:
            moments.append(clock.monotonic())
            passing.used = used
    return moments


async def test_a_declared_quota_lets_a_burst_out_and_then_its_rate() -> None:
    clock = ScriptedClock(jump=True)
    moments = await passes(Gate(clock, requests_per_minute=60), clock, [1.0] * 13)
    assert moments[:10] == [0.0] * 10  # ten seconds' worth
    assert moments[10:] == pytest.approx([1.0, 2.0, 3.0])


async def test_quota_is_corrected_by_the_actual_use_of_a_call() -> None:
    clock = ScriptedClock(jump=True)
    saving = await passes(Gate(clock, tokens_per_minute=6_000), clock, [1_000.0] * 3, used=500)
    assert saving == pytest.approx([0.0, 5.0, 10.0])
    clock = ScriptedClock(jump=True)
    wasting = await passes(Gate(clock, tokens_per_minute=6_000), clock, [500.0] * 3, used=1_000)
    assert wasting == pytest.approx([0.0, 5.0, 15.0])


async def test_a_call_larger_than_the_burst_goes_out_alone() -> None:
    clock = ScriptedClock(jump=True)
    moments = await passes(Gate(clock, tokens_per_minute=600), clock, [5_000.0, 10.0])
    assert moments[0] == 0.0
    assert moments[1] == pytest.approx(491.0)


@pytest.mark.parametrize(
    "headers",
    [
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m0s",
        },
        {
            "x-ratelimit-limit-requests-minute": "60",
            "x-ratelimit-remaining-requests-minute": "0",
            "x-ratelimit-reset-requests-minute": "60",
        },
        {
            "anthropic-ratelimit-requests-limit": "60",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00Z",
        },
        {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"},
    ],
    ids=["openai", "cerebras", "anthropic", "mistral"],
)
async def test_limits_are_learned_from_what_answers_tell(headers: Mapping[str, str]) -> None:
    clock = ScriptedClock(jump=True)
    gate = Gate(clock)
    assert await passes(gate, clock, [1.0] * 100) == [0.0] * 100
    gate.hear(headers)
    assert await passes(gate, clock, [1.0] * 3) == pytest.approx([1.0, 2.0, 3.0])


def test_a_declared_limit_is_not_raised_by_what_is_heard() -> None:
    bucket = Bucket(60)
    bucket.learn(limit=6_000, remaining=6_000, reset=0.0)
    assert (bucket.rate, bucket.level) == (1.0, 10.0)
    bucket.learn(limit=30, remaining=4, reset=None)
    assert (bucket.rate, bucket.level) == (0.5, 4.0)


def test_what_is_out_is_not_counted_twice() -> None:
    bucket = Bucket(None)
    bucket.take(3)
    bucket.learn(limit=60, remaining=10, reset=50.0)
    assert bucket.level == 7.0


async def test_all_wait_together_when_the_endpoint_asks_for_it() -> None:
    clock = ScriptedClock(jump=True)
    gate = Gate(clock)
    gate.pause(20.0)
    gate.pause(5.0)
    assert await passes(gate, clock, [1.0, 1.0]) == [20.0, 20.0]
    gate.pause(1e9)
    assert await passes(gate, clock, [1.0]) == [140.0]


@pytest.mark.parametrize(
    "odd", [{"x-ratelimit-limit-requests": "many"}, {"x-ratelimit-limit-tokens": "5"}, {}]
)
async def test_what_is_told_oddly_is_not_heard(odd: dict[str, str]) -> None:
    clock = ScriptedClock(jump=True)
    gate = Gate(clock)
    gate.hear(odd)
    assert await passes(gate, clock, [1e9] * 3) == [0.0] * 3


def test_those_who_share_a_gate_find_the_same_one() -> None:
    shared, clock = Shared(), ScriptedClock()
    first = shared.get((Gate, "url"), lambda: Gate(clock))
    assert shared.get((Gate, "url"), lambda: Gate(clock)) is first
    assert shared.get((Gate, "other"), lambda: Gate(clock)) is not first


@dataclass
class Endpoint:
    """A quota that fills continuously, as vendors have it; `refused` counts what came too early."""

    per_minute: float
    burst: float
    level: float = 0.0
    at: float = 0.0
    done: int = 0
    refused: int = 0

    def ask(self, now: float) -> dict[str, str]:
        self.level = min(self.burst, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.level < 1:
            self.refused += 1
        else:
            self.level -= 1
            self.done += 1
        reset = (self.burst - self.level) / (self.per_minute / 60)
        return {
            "x-ratelimit-limit-requests": f"{self.per_minute:g}",
            "x-ratelimit-remaining-requests": f"{int(self.level)}",
            "x-ratelimit-reset-requests": f"{reset:.3f}s",
        }


@pytest.mark.slow
async def test_a_declared_quota_is_used_in_full_without_refusals() -> None:
    clock = ScriptedClock(jump=True)
    gate, endpoint = Gate(clock, requests_per_minute=600), Endpoint(600, burst=100, level=100)
    while clock.monotonic() < 600:
        async with gate.call(1):
            gate.hear(endpoint.ask(clock.monotonic()))
    assert endpoint.refused / endpoint.done < 0.005
    assert endpoint.done >= 0.97 * 6_000
