"""11. Something blocks the event loop: it is told where."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from engine.temporal.watchdog import Watchdog

PATIENCE = 30.0


async def test_11_the_line_that_holds_the_event_loop_up_is_named_and_its_end_is_told() -> None:
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
    assert "test_watchdog.py" in told[0]
    assert "(a_call_that_blocks)" in told[0]
    assert told[1] == "the event loop runs again"


async def test_11_a_loop_that_answers_is_left_in_peace() -> None:
    told: list[str] = []
    with Watchdog(20.0, lambda message, seconds: told.append(message)):
        for _ in range(100):
            await asyncio.sleep(0)

    assert told == []
    assert "event-loop-watchdog" not in [thread.name for thread in threading.enumerate()]


async def test_11_whoever_ends_the_watching_is_not_kept_waiting() -> None:
    with pytest.raises(RuntimeError, match="enough"), Watchdog(PATIENCE, lambda message, seconds: None):
        raise RuntimeError("enough")
