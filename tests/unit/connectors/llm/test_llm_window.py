"""The number of concurrent calls: growth, throttling, queueing, and an unavailable endpoint."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from connectors.llm.gate import Gate
from connectors.llm.window import FIRST, Window
from engine.testing import ScriptedClock


def answered(window: Window, latency: float, calls: int = 1) -> None:
    for _ in range(calls):
        window.succeeded(latency, flying=window.size)


def test_it_doubles_in_the_time_of_a_call_until_a_limit_is_met() -> None:
    window = Window()
    answered(window, 1.0, FIRST)
    assert window.size == 2 * FIRST
    window.throttled()
    assert window.size == 6
    answered(window, 1.0, 24)
    assert window.size == 6
    answered(window, 1.0)
    assert window.size == 7


def test_calls_that_are_throttled_together_count_once() -> None:
    window = Window()
    answered(window, 1.0, 12)
    for _ in range(5):
        window.throttled()
    assert window.size == 12


def test_a_server_that_only_queues_is_not_asked_for_more() -> None:
    window = Window()
    for _ in range(500):  # one call at a time, as llama.cpp with one slot
        answered(window, float(window.size))
    assert window.size <= 8 * FIRST


def test_unused_resources_do_not_grow() -> None:
    window = Window()
    for _ in range(100):
        window.succeeded(1.0, flying=1)
    assert window.size == FIRST


async def test_when_nothing_gets_through_one_call_at_a_time_tries() -> None:
    clock = ScriptedClock(jump=True)
    gate = Gate(clock)
    for _ in range(5):
        gate.failed()
    assert gate.window == 1
    async with gate.call(1.0):
        first = clock.monotonic()
        gate.failed()
    async with gate.call(1.0):
        assert clock.monotonic() - first >= 2.0
        gate.succeeded(0.1)
    assert gate.window == 2


async def test_a_full_window_waits_for_a_call_to_end() -> None:
    gate, order = Gate(ScriptedClock(jump=True)), []

    async def one(number: int, hold: anyio.Event) -> None:
        async with gate.call(1.0):
            order.append(number)
            await hold.wait()

    hold, free = anyio.Event(), anyio.Event()
    free.set()
    async with anyio.create_task_group() as group:
        for number in range(FIRST):
            group.start_soon(one, number, hold)
        await anyio.lowlevel.checkpoint()
        group.start_soon(one, FIRST, free)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert order == list(range(FIRST))
        hold.set()
    assert order[-1] == FIRST
