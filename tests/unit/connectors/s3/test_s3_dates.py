"""Dates in the formats of servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.utils import parse_timestamp  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from connectors.s3.answers import parse_date


@pytest.mark.slow
@given(st.integers(-2_208_988_800, 253_402_300_799))  # 1900 to 9999
def test_a_date_is_read_as_botocore_reads_it(seconds: int) -> None:
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    for text in (format_datetime(whole, usegmt=True), f"{whole:%Y-%m-%dT%H:%M:%S}.000Z"):
        assert parse_date(text) == parse_timestamp(text) == whole
        assert parse_date(text).isoformat() == parse_timestamp(text).isoformat()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thu, 01 Jan 2026 03:04:05 GMT", "2026-01-01T03:04:05+00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05.123Z", "2026-01-02T03:04:05.123000+00:00"),
        ("Thu, 31 Feb 2026 03:04:05 GMT", None),
        ("Thursday, 01-Jan-26 03:04:05 GMT", "2026-01-01T03:04:05+00:00"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"),
        ("1767225600000", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_odd_dates_are_none_and_usual_ones_dates(text: Any, expected: str | None) -> None:
    found = parse_date(text)
    assert (found and found.isoformat()) == expected
