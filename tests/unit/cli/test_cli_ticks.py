"""Ticks of schedules: zones, summer time, intervals, and names of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.local.ticks import name_of, tick_of, ticks_after

MOMENTS = st.integers(946_684_800, 2_208_988_800).map(lambda second: datetime.fromtimestamp(second, UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "ticks"),
    [
        ("0 3 * * *", "UTC", "2026-01-01T03:00", ["2026-01-02T03:00", "2026-01-03T03:00"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T00:00", ["2026-03-28T02:00", "2026-03-29T01:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("@daily", "America/New_York", "2026-01-01T00:00", ["2026-01-01T05:00", "2026-01-02T05:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("*/20 8-9 * * mon-fri", "UTC", "2026-01-02T09:30", ["2026-01-02T09:40", "2026-01-05T08:00"]),
        ("90m", "UTC", "2026-01-01T00:00", ["2026-01-01T01:30", "2026-01-01T03:00"]),
        ("@every 10s", "Europe/Berlin", "2026-01-01T00:00", ["2026-01-01T00:00:10", "2026-01-01T00:00:20"]),
    ],
)
def test_a_schedule_has_these_ticks(schedule: str, zone: str, after: str, ticks: list[str]) -> None:
    assert list(islice(ticks_after(schedule, zone, at(after)), 2)) == [at(one) for one in ticks]


def test_a_day_that_never_comes_has_no_ticks() -> None:
    assert list(ticks_after("0 0 30 2 *", "UTC", at("2026-01-01T00:00"))) == []


@pytest.mark.slow
@given(MOMENTS, st.integers(1, 100_000))
def test_an_interval_has_one_tick_in_each_step(after: datetime, seconds: int) -> None:
    first, second = islice(ticks_after(f"{seconds}s", "UTC", after), 2)
    assert after < first <= after + timedelta(seconds=seconds)
    assert second - first == timedelta(seconds=seconds)


@given(MOMENTS)
def test_the_name_of_a_run_tells_its_tick(tick: datetime) -> None:
    assert tick_of("p", name_of("p", tick)) == tick
    assert tick_of("q", name_of("p", tick)) is None
    assert tick_of("p", "p-20260101T000000-abc") is None
