"""Budgets of a pipeline: per run and per day, shared by processes, kept across restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import FatalError
from engine.execution.spending import PipelineSpending
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.examples import examples

DAY = 86_400.0


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    async with MemoryStateStore() as store:
        yield store


def spending(
    store: MemoryStateStore,
    *,
    clock: ScriptedClock | None = None,
    run: str = "run-1",
    per_run: float | None = None,
    per_day: float | None = None,
) -> PipelineSpending:
    return PipelineSpending(store, clock or ScriptedClock(), "memos", run, per_run, per_day)


async def paid(one: PipelineSpending, estimate: float, usd: float | None = None) -> bool:
    """Pay for a call; False when the budget does not cover it."""
    try:
        async with one.paying(estimate) as payment:
            payment.usd = estimate if usd is None else usd
    except FatalError as error:
        return error.kind != "budget"
    return True


async def test_a_run_pays_no_more_than_its_budget_over_attempts(store: MemoryStateStore) -> None:
    first = spending(store, per_run=1.0)
    assert [await paid(first, 0.3) for _ in range(4)] == [True, True, True, False]
    await first.close()
    again = spending(store, per_run=1.0)
    assert [await paid(again, 0.3), await paid(again, 0.1), await paid(again, 0.1)] == [False, True, False]
    assert await paid(spending(store, run="run-2", per_run=1.0), 0.3)
    assert await paid(spending(store, per_run=2.0), 0.3)  # it was raised


async def test_runs_of_a_day_share_its_budget_until_midnight(store: MemoryStateStore) -> None:
    clock = ScriptedClock()
    runs = [spending(store, clock=clock, run=f"run-{number}", per_day=1.0) for number in range(2)]
    assert [await paid(runs[number % 2], 0.4) for number in range(3)] == [True, True, False]
    with pytest.raises(FatalError, match=r"`budget_usd_per_day` of 1 USD .* resume the run tomorrow"):
        async with runs[0].paying(0.4):
            pass
    clock.advance(DAY)
    assert [await paid(runs[number % 2], 0.4) for number in range(3)] == [True, True, False]


async def test_a_failed_call_costs_nothing_and_a_dear_one_what_it_cost(store: MemoryStateStore) -> None:
    one = spending(store, per_run=1.0)
    with pytest.raises(RuntimeError):
        async with one.paying(0.9):
            raise RuntimeError("the connection broke")
    assert await paid(one, 0.5, usd=0.95)
    await one.close()
    assert not await paid(spending(store, per_run=1.0), 0.06)
    assert await paid(spending(store, per_run=1.0), 0.04)


async def test_what_is_booked_before_the_first_call_counts(store: MemoryStateStore) -> None:
    """The answers of batch jobs of an earlier attempt are booked without a reservation."""
    only = spending(store, per_run=1.0, per_day=1.0)
    only.book(0.5)
    await only.close()
    then = spending(store, run="run-2", per_day=1.0)
    then.book(0.3)
    assert [await paid(then, 0.3), await paid(then, 0.1)] == [False, True]


async def test_calls_cost_no_write_each(store: MemoryStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    draw = store.draw

    async def counted(*args):  # type: ignore[no-untyped-def]
        draws.append(args)
        return await draw(*args)

    monkeypatch.setattr(store, "draw", counted)
    one = spending(store, per_run=1_000.0)
    for _ in range(100):
        assert await paid(one, 0.5)
    one.book(0.25)
    await one.close()
    assert len(draws) <= 7
    assert sum(granted for args in draws for granted in [args[0][0].amount]) == pytest.approx(50.25)


async def test_without_a_budget_nothing_is_asked_of_the_store(store: MemoryStateStore) -> None:
    one = spending(store)
    await store.__aexit__(None, None, None)
    assert not one.limited
    assert await paid(one, 1e9)
    await one.close()


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(40))
@given(
    calls=st.lists(st.tuples(st.integers(0, 2), st.floats(0.001, 0.5), st.floats(0, 1.5)), max_size=30),
)
async def test_whoever_calls_what_was_paid_stays_within_the_budget(
    calls: list[tuple[int, float, float]],
) -> None:
    """Three processes; a call costs up to half more than its estimate."""
    async with MemoryStateStore() as store:
        workers = [spending(store, per_run=1.0) for _ in range(3)]
        spent, beyond = 0.0, 0.0
        for number, estimate, share in calls:
            if await paid(workers[number], estimate, estimate * share):
                spent += estimate * share
                beyond += max(0.0, estimate * (share - 1))
        for worker in workers:
            await worker.close()
        assert spent <= 1.0 + beyond + 1e-6
        left = 1.0 - spent
        if left > 0.001:
            assert await paid(spending(store, per_run=1.0), left - 0.001)
