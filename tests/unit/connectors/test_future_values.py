"""Dates later than the clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from connectors.future_values import is_future

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "future"),
    [
        ("2026-05-01T12:00:00Z", False), ("2026-05-02 11:59:59+00", False), ("2026-05-02", False),
        ("2026-05-03", True), ("2026-05-02T12:00:01Z", True), ("2026-05-02T15:00:00+14:00", False),
        ("2999-01-01 10:00:01.250000Z", True), ("20260-01-01 00:00:00", True), ("2026-99-99", False),
        ("20991231", False), ("z-2999-01-01", False), (4_000_000_000, False), (None, False),
    ],
)  # fmt: skip
def test_a_date_more_than_a_day_ahead_is_future(value: object, future: bool) -> None:
    assert is_future(value, NOW) is future


@pytest.mark.parametrize(
    ("value", "known", "future"),
    [
        (1_770_000_000_000, 1_770_000_000, True), (1_770_000_000, 1_770_000_000_000, False),
        (1.77e18, 1_770_000_000_000, True), (1_770_000_001, 1_770_000_000, False), (7, 1_770_000_000, False),
        (1_770_000_000_000, 7, False), (1_770_000_000_000, None, False), (True, 1_770_000_000, False),
        (float("inf"), 1_770_000_000, False), (10**400, 1_770_000_000, False),
        (1_770_000_000_000, "2026-01-01", False), ("1770000000000", "1770000000", True),
    ],
)  # fmt: skip
def test_an_epoch_of_a_greater_unit_is_future(value: object, known: object, future: bool) -> None:
    assert is_future(value, NOW, known) is future
