"""Bytes in flight: granted in order, always released, shared fairly between pipelines."""

from __future__ import annotations

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from engine.flow.budget import BudgetReservation, ByteBudget, ProcessBudget

pytestmark = pytest.mark.anyio


async def test_reservations_are_granted_first_come_first_served() -> None:
    budget, order = ByteBudget(10), []
    first = await budget.reserve(8)

    async def wait(name: str, nbytes: int) -> None:
        held = await budget.reserve(nbytes)
        order.append(name)
        held.release()

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "large", 10)
        await wait_all_tasks_blocked()
        group.start_soon(wait, "small", 1)  # it would fit, but is not first
        await wait_all_tasks_blocked()
        assert order == []
        first.release()

    assert order == ["large", "small"]
    assert (budget.in_use, budget.peak) == (0, 10)


async def test_more_than_the_whole_budget_counts_as_all_of_it() -> None:
    budget = ByteBudget(10)

    with anyio.fail_after(300):
        held = await budget.reserve(10_000)

    assert (held.nbytes, budget.in_use) == (10, 10)


async def test_a_cancelled_wait_takes_nothing_and_lets_the_next_one_pass() -> None:
    budget, got = ByteBudget(10), []
    await budget.reserve(8)

    async def wait() -> None:
        got.append(await budget.reserve(2))

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as group:
            group.start_soon(budget.reserve, 5)
            await wait_all_tasks_blocked()
            outer.start_soon(wait)
            await wait_all_tasks_blocked()
            assert got == []
            group.cancel_scope.cancel()

    assert [held.nbytes for held in got] == [2]
    assert (budget.in_use, budget.waiting) == (10, False)


async def test_bytes_granted_to_a_cancelled_wait_come_back() -> None:
    budget = ByteBudget(10)
    held = await budget.reserve(10)

    async with anyio.create_task_group() as group:
        group.start_soon(budget.reserve, 5)
        await wait_all_tasks_blocked()
        held.release()  # grants, and the waiter is cancelled before it runs
        group.cancel_scope.cancel()
    for _ in range(3):
        await checkpoint()

    assert budget.in_use in (0, 5)  # a grant that won the race is a reservation like any other
    assert not budget.waiting


async def test_a_reservation_grows_without_waiting_and_is_released_once() -> None:
    budget = ByteBudget(10)
    held = await budget.reserve(4)

    held.resize(25)
    assert (budget.in_use, budget.peak) == (25, 25)
    held.resize(1)
    held.grow(2)
    held.release()
    held.release()

    assert budget.in_use == 0


async def test_everybody_who_holds_back_hears_of_a_wait() -> None:
    process = ProcessBudget(10)
    ours, theirs = process.pipeline(100, floor=0), process.pipeline(100, floor=0)
    heard: list[str] = []
    ours.on_wait(lambda: heard.append("ours"))
    theirs.on_wait(lambda: heard.append("theirs"))
    held = await theirs.reserve(10)

    async with anyio.create_task_group() as group:
        group.start_soon(ours.reserve, 5)
        await wait_all_tasks_blocked()
        assert set(heard) == {"ours", "theirs"}
        assert ours.waiting
        assert theirs.waiting  # no batcher in the process may hold half a batch now
        held.release()

    assert not theirs.waiting


async def test_the_floor_needs_no_room_in_the_process() -> None:
    process = ProcessBudget(10)
    greedy, modest = process.pipeline(100, floor=0), process.pipeline(100, floor=5)
    await greedy.reserve(10)

    with anyio.fail_after(300):
        held = await modest.reserve(5)

    assert (held.nbytes, process.in_use) == (5, 10)


async def test_a_busy_pipeline_does_not_starve_one_that_waits_for_much() -> None:
    process = ProcessBudget(10)
    busy, waiting = process.pipeline(100, floor=2), process.pipeline(100, floor=2)
    held: list[BudgetReservation] = []

    async def take() -> None:
        while True:
            held.append(await busy.reserve(2))
            held.append(await busy.reserve(2))
            await checkpoint()

    async def finish() -> None:
        while True:
            if held:
                held.pop(0).release()
            await checkpoint()

    with anyio.fail_after(300):
        async with anyio.create_task_group() as group:
            group.start_soon(take)
            group.start_soon(finish)
            for _ in range(50):
                await checkpoint()
            assert process.in_use > 3
            (await waiting.reserve(9)).release()
            group.cancel_scope.cancel()


async def test_more_than_the_process_has_gets_its_turn_alone() -> None:
    process = ProcessBudget(10)
    one, other = process.pipeline(100, floor=0), process.pipeline(100, floor=0)
    held = await one.reserve(3)
    got: list[BudgetReservation] = []

    async def ask() -> None:
        got.append(await other.reserve(50))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await wait_all_tasks_blocked()
        assert got == []
        held.release()

    assert got[0].nbytes == 50


async def test_a_run_that_ends_gives_everything_back() -> None:
    process = ProcessBudget(10)
    ending, going_on = process.pipeline(100, floor=0), process.pipeline(100, floor=0)
    late = await ending.reserve(10)

    async with anyio.create_task_group() as group:
        group.start_soon(going_on.reserve, 4)
        await wait_all_tasks_blocked()
        ending.close()

    late.release()
    assert process.in_use == 4
