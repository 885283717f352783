"""A blocked event loop is reported with the place."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from engine.temporal.loop_watchdog import Watchdog

PATIENCE = 300.0


async def test_blocking_line_and_its_end_are_logged() -> None:
    told: list[str] = []
    stuck = threading.Event()

    def tell(message: str, seconds: float) -> None:
        told.append(message)
        assert seconds >= 0.05
        stuck.set()  # or else this test would wait for ever

    def a_call_that_blocks() -> None:
        stuck.wait(PATIENCE)

    with Watchdog(0.05, tell):
        a_call_that_blocks()
        with anyio.fail_after(PATIENCE):
            while len(told) < 2:  # noqa: ASYNC110 - told in another thread
                await anyio.sleep(0.01)

    assert told[0].startswith("the event loop is blocked at ")
    assert "test_loop_watchdog.py" in told[0]
    assert "(a_call_that_blocks)" in told[0]
    assert told[1] == "the event loop runs again"


async def test_watchdog_stays_silent_on_a_responsive_loop() -> None:
    told: list[str] = []
    with Watchdog(PATIENCE, lambda message, seconds: told.append(message)):
        for _ in range(100):
            await asyncio.sleep(0)

    assert told == []
    assert "event-loop-watchdog" not in [thread.name for thread in threading.enumerate()]


async def test_ending_the_watchdog_does_not_wait() -> None:
    with pytest.raises(RuntimeError, match="enough"), Watchdog(PATIENCE, lambda message, seconds: None):
        raise RuntimeError("enough")
