"""The loop-lag probe, on a scripted clock."""

from __future__ import annotations

import anyio
import pytest

from benchmarks.lag import LagRecorder, idle, loop_lag


class Loop:
    """A manual clock, and a sleep that oversleeps by ``late`` seconds."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 0.0
        self.late = late

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late
        await anyio.lowlevel.checkpoint()


def test_a_tick_on_time_has_no_delay() -> None:
    recorder = LagRecorder(interval=1.0, start=10.0)
    recorder.wake(11.0)
    assert recorder.delays == (0.0,)
    assert recorder.next_due == 12.0


def test_waking_early_records_nothing() -> None:
    recorder = LagRecorder(interval=1.0, start=0.0)
    recorder.wake(0.5)
    assert recorder.delays == ()
    assert recorder.figures() == {}


def test_a_stall_delays_every_tick_that_fell_into_it() -> None:
    recorder = LagRecorder(interval=1.0, start=0.0)
    recorder.wake(4.5)
    assert recorder.delays == (3.5, 2.5, 1.5, 0.5)


def test_figures_are_percentiles_of_the_delays() -> None:
    recorder = LagRecorder(interval=1.0, start=0.0)
    for tick in range(1, 999):
        recorder.wake(tick + 0.25)
    recorder.wake(1000.5)  # ticks 999 and 1000 wait out a stall
    assert recorder.figures() == {"lag_p50": 0.25, "lag_p99": 0.25, "lag_p999": 0.5, "lag_max": 1.5}


@pytest.mark.anyio
async def test_the_probe_records_how_late_the_loop_is() -> None:
    loop = Loop(late=0.25)
    async with loop_lag(interval=1.0, clock=loop.clock, sleep=loop.sleep) as recorder:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
    assert recorder.delays
    assert set(recorder.delays) == {0.25}


@pytest.mark.anyio
async def test_a_body_that_never_yields_is_seen_when_it_ends() -> None:
    loop = Loop()
    async with loop_lag(interval=1.0, clock=loop.clock, sleep=loop.sleep) as recorder:
        loop.now = 3.0
    assert recorder.figures()["lag_max"] == 2.0


@pytest.mark.anyio
async def test_the_idle_control_measures_without_doing_work() -> None:
    work = await idle(0.01)
    assert (work.count, work.checksum) == (0, None)
    assert {"lag_p50", "lag_p999"} <= work.figures.keys()
