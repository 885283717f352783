"""The contract of state stores for limits that processes share, on both backends."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from engine.contract.allowances import Draw
from engine.state.store import StateStore
from tests.contract.test_state_store import STORES, WORLDS, World

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


async def drawn(store: StateStore, amount: float, at: float = 0.0, **more: float) -> float:
    (granted,) = await store.draw([Draw("a", amount, **{"capacity": 10.0, **more})], NOW + at)  # type: ignore[arg-type]
    return granted


async def test_no_more_is_granted_than_there_is_also_after_a_restart(world: World) -> None:
    async with world.store() as store:
        assert [await drawn(store, 7), await drawn(store, 7)] == [7, 3]
    async with world.store() as store:
        assert await drawn(store, 1) == 0
        assert await drawn(store, -4) == -4
        assert await drawn(store, 9, at=1e6) == 4  # a budget does not fill


async def test_a_rate_frees_what_was_taken(world: World) -> None:
    async with world.store() as store:
        assert await drawn(store, 10, rate=2.0) == 10
        assert await drawn(store, 10, at=1.5, rate=2.0) == 3
        assert await drawn(store, 20, at=1e6, rate=2.0) == 10


async def test_what_was_used_already_is_taken_beyond_the_limit(world: World) -> None:
    async with world.store() as store:
        assert await drawn(store, 14, force=True) == 14
        assert await drawn(store, 1) == 0
        assert await drawn(store, 9, capacity=20) == 6  # the limit was raised


@pytest.mark.parametrize(
    ("moments", "granted"),
    [
        ((3.0, 0.0, 3.0), [3, 0, 0]),  # two machines whose clocks differ
        ((0.0, -7_200.0, -7_199.0), [0, 0, 1]),  # a clock that was set back by hours
    ],
)
async def test_clocks_that_differ_or_jump_create_nothing(
    moments: tuple[float, ...], granted: list[float], world: World
) -> None:
    async with world.store() as store:
        await drawn(store, 10, rate=1.0)
        assert [await drawn(store, 10, at=at, rate=1.0) for at in moments] == granted


async def test_several_limits_are_drawn_in_one_transaction(world: World) -> None:
    async with world.store() as store:
        draws = [Draw("b", 3, 2), Draw("a", 3, 10)]
        assert await store.draw(draws, NOW) == [2, 3]
        assert await store.draw(draws, NOW) == [0, 3]


async def test_many_that_draw_at_once_share_what_there_is(world: World) -> None:
    """Two stores of one place, as two processes have them, where the place is more than one process's."""
    granted: list[float] = []

    async with world.store() as first, world.store() as second:

        async def draw(store: StateStore) -> None:
            found = await store.draw([Draw("a", 3, 20), Draw("b", 1, 100)], NOW)
            granted.append(found[0])

        async with anyio.create_task_group() as group:
            for store in (first, second) * 6:
                group.start_soon(draw, store)
    assert sum(granted) == 20
