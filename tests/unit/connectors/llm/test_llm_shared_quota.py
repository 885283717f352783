"""A quota that several gates share through a state store, as processes do."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence

import pytest

from connectors.llm.gate import BURST, Gate
from engine.contract.allowances import Draw
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.unit.connectors.llm.quota import Provider, Refill, run_callers

TOKENS = 150_000.0


class Counted:
    """Allowances in a store, which count what they are asked."""

    def __init__(self, store: MemoryStateStore, clock: ScriptedClock) -> None:
        self._store, self._clock = store, clock
        self.draws = 0

    async def draw(self, draws: Sequence[Draw]) -> list[float]:
        self.draws += 1
        return await self._store.draw(draws, self._clock.now().timestamp())


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    async with MemoryStateStore() as store:
        yield store


def gate(clock: ScriptedClock, allowances: Counted, requests: float = 600, tokens: float = TOKENS) -> Gate:
    return Gate(
        clock, requests_per_minute=requests, tokens_per_minute=tokens, allowances=allowances, name="endpoint"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "minutes"),
    [(2, 1), *(pytest.param(processes, 10, marks=pytest.mark.series) for processes in (1, 2, 4))],
)
async def test_processes_use_all_of_a_declared_quota_and_no_more(
    processes: int, minutes: int, store: MemoryStateStore
) -> None:
    """The endpoint does not say what is left, so that only the store can tell."""
    clock = ScriptedClock()
    quota = Provider(clock, Refill(600, 1 / 6), Refill(TOKENS, 1 / 6), tells=False)
    shared = Counted(store, clock)
    gates = [gate(clock, shared) for _ in range(processes)]
    await run_callers(quota, gates, until=60 * minutes, in_flight=64 // processes)
    assert quota.used >= 0.97 * TOKENS * minutes
    assert quota.refused / (quota.done + quota.refused) < 0.005
    assert shared.draws <= 2 * 60 * minutes * processes  # one a second for each of the two limits
    assert shared.draws <= quota.done / 5 * processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "minutes"),
    [(4, 1), *(pytest.param(processes, 10, marks=pytest.mark.series) for processes in (1, 8))],
)
async def test_processes_share_a_quota_that_they_have_learned(
    processes: int, minutes: int, store: MemoryStateStore
) -> None:
    clock = ScriptedClock()
    quota = Provider(clock, Refill(600, 1 / 6), Refill(TOKENS, 1 / 6))
    shared = Counted(store, clock)
    gates = [Gate(clock, allowances=shared, name="endpoint") for _ in range(processes)]
    await run_callers(quota, gates, until=60 * minutes, in_flight=64 // processes)
    assert quota.used >= 0.97 * TOKENS * minutes
    assert quota.refused / (quota.done + quota.refused) < 0.002
    assert shared.draws <= 2 * 60 * minutes * processes


@pytest.mark.series
async def test_processes_follow_a_learned_quota_that_changes(store: MemoryStateStore) -> None:
    clock = ScriptedClock()
    quota = Provider(clock, Refill(600, 1 / 6), Refill(TOKENS, 1 / 6))
    gates = [Gate(clock, allowances=Counted(store, clock), name="endpoint") for _ in range(2)]
    change = {180.0: TOKENS / 2, 360.0: TOKENS}
    await run_callers(quota, gates, until=600, in_flight=32, change=change)
    assert quota.used_between(240, 360) >= 0.97 * TOKENS
    assert quota.used_between(420, 600) >= 0.97 * TOKENS * 3
    assert quota.refused / (quota.done + quota.refused) < 0.005


async def test_what_is_left_of_a_day_is_not_divided_by_the_second(store: MemoryStateStore) -> None:
    clock = ScriptedClock(jump=True)
    shared = Counted(store, clock)
    one = Gate(clock, allowances=shared, name="endpoint")
    told = {"limit": "1000000", "remaining": "500000", "reset": "12h"}
    one.hear({f"x-ratelimit-{name}-tokens": value for name, value in told.items()})
    for _ in range(100):
        async with one.call(1_000):
            pass
    assert (clock.monotonic(), shared.draws) == (0.0, 0)


async def test_calls_below_the_quota_take_several_at_a_time(store: MemoryStateStore) -> None:
    clock = ScriptedClock(jump=True)
    shared = Counted(store, clock)
    one = gate(clock, shared)
    for _ in range(100):
        async with one.call(300):
            await clock.sleep(0.2)  # half of the quota
    assert shared.draws <= 15


async def test_an_idle_process_keeps_nothing(store: MemoryStateStore) -> None:
    """What it took long ago has been free for others since: it is not used a second time."""
    clock = ScriptedClock(jump=True)
    idle, busy = (gate(clock, Counted(store, clock), requests=60, tokens=1e9) for _ in range(2))
    async with idle.call(1):
        pass
    await clock.sleep(BURST + 1)
    for _ in range(10):
        async with busy.call(1):
            pass
    start = clock.monotonic()
    async with idle.call(1):
        pass
    assert clock.monotonic() > start


async def test_a_call_beyond_the_burst_waits_for_all_of_it(store: MemoryStateStore) -> None:
    clock = ScriptedClock(jump=True)
    one = gate(clock, Counted(store, clock), tokens=600)
    moments = []
    for tokens in (5_000.0, 10.0):
        async with one.call(tokens):
            moments.append(clock.monotonic())
    assert moments[0] == 0.0
    assert math.isclose(moments[1], 491.0, abs_tol=6.0)
