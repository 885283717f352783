"""Background tasks of a block."""

from __future__ import annotations

import anyio
import pytest

from engine.contract.background import background_tasks

pytestmark = pytest.mark.anyio


async def test_tasks_end_with_the_block() -> None:
    async with background_tasks() as group:
        group.start_soon(anyio.sleep_forever)


async def test_an_exception_of_the_block_is_raised_unwrapped() -> None:
    with pytest.raises(ValueError, match="mine") as raised:
        async with background_tasks() as group:
            group.start_soon(anyio.sleep_forever)
            raise ValueError("mine")
    assert raised.value.__context__ is None


async def test_a_task_that_fails_ends_the_block() -> None:
    async def fail() -> None:
        raise ValueError("its own")

    with pytest.raises(ExceptionGroup) as raised:
        async with background_tasks() as group:
            group.start_soon(fail)
            await anyio.sleep_forever()
    assert str(raised.value.exceptions[0]) == "its own"


async def test_a_block_that_is_cancelled_ends_its_tasks() -> None:
    with anyio.CancelScope() as scope:
        async with background_tasks() as group:
            group.start_soon(anyio.sleep_forever)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
