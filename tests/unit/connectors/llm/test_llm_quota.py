"""Use of a provider's quota, and refused calls, in ten minutes of virtual time."""

from __future__ import annotations

import pytest

from connectors.llm.gate import Gate
from engine.testing import ScriptedClock
from tests.series import few
from tests.unit.connectors.llm.quota import Provider, Refill, run_callers

MINUTES = 10
TOKENS = 150_000.0


def provider(clock: ScriptedClock, *, burst: float, tells: bool = True) -> Provider:
    return Provider(clock, Refill(600, burst), Refill(TOKENS, burst), tells)


def refused(one: Provider) -> float:
    return one.refused / (one.done + one.refused)


@pytest.mark.slow
@pytest.mark.parametrize("burst", few([1 / 6, 1.0], 1))
async def test_a_quota_that_is_told_is_used_in_full(burst: float) -> None:
    clock = ScriptedClock()
    quota = provider(clock, burst=burst)
    await run_callers(quota, [Gate(clock)], until=60 * MINUTES, in_flight=64)
    assert quota.used >= 0.97 * TOKENS * MINUTES
    assert refused(quota) < 0.005


@pytest.mark.slow
async def test_a_quota_that_is_declared_is_used_in_full() -> None:
    clock = ScriptedClock()
    quota = provider(clock, burst=1 / 6, tells=False)
    gate = Gate(clock, requests_per_minute=600, tokens_per_minute=TOKENS)
    await run_callers(quota, [gate], until=60 * MINUTES, in_flight=64)
    assert quota.used >= 0.97 * TOKENS * MINUTES
    assert refused(quota) < 0.005


@pytest.mark.slow
async def test_a_changed_quota_is_followed_within_a_minute() -> None:
    clock = ScriptedClock()
    quota = provider(clock, burst=1 / 6)
    change = {180.0: TOKENS / 2, 360.0: TOKENS}
    await run_callers(quota, [Gate(clock)], until=60 * MINUTES, in_flight=64, change=change)
    assert quota.used_between(240, 360) >= 0.97 * TOKENS
    assert quota.used_between(420, 600) >= 0.97 * TOKENS * 3
    assert refused(quota) < 0.005


@pytest.mark.slow
async def test_two_processes_that_share_a_quota_use_it_in_full() -> None:
    clock = ScriptedClock()
    quota = provider(clock, burst=1 / 6)
    await run_callers(quota, [Gate(clock), Gate(clock)], until=60 * MINUTES, in_flight=32)
    assert quota.used >= 0.97 * TOKENS * MINUTES
    assert refused(quota) < 0.005
