"""Durations, sizes, shares and schedules."""

from __future__ import annotations

import pytest

from engine.config.cron import check_schedule
from engine.units import parse_duration, parse_limit, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1.5 h", 5400),
        (5, 5), (0.5, 0.5), ("5", 5), ("1h 30m", 5400), ("0", 0),
    ],
)  # fmt: skip
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10 parsecs", "m", "-5s", -5, float("inf"), float("nan"), True, "5s x", "1e3"]
)
def test_invalid_durations(text: str | float) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 500ms, 30s, 10m, 1h30m or 2d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512 KB", 524_288), ("64 MB", 67_108_864), ("64MiB", 67_108_864), ("1 gb", 1_073_741_824),
        ("1.5k", 1536), (7, 7), ("7", 7), ("7 B", 7),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5 parsecs", "MB", -1, "-1", True, "1 TB"])
def test_invalid_sizes(text: str | int) -> None:
    with pytest.raises(ValueError, match="expected a size such as 512 KB, 64 MB or 1 GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "limit"), [(100, 100), ("100", 100), ("20%", 0.2), ("12.5 %", 0.125), ("100%", 1.0)]
)
def test_limits(text: str | int, limit: float) -> None:
    assert parse_limit(text) == limit
    assert type(parse_limit(text)) is type(limit)


@pytest.mark.parametrize("text", ["many", "200%", -1, 0.2, True, "%"])
def test_invalid_limits(text: str | int) -> None:
    with pytest.raises(ValueError, match="expected a number of records such as 100 or a share such as 20%"):
        parse_limit(text)


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "0 * * * *",
        "*/5 0-6,12 1 jan-mar mon-fri",
        "0 0 * * 7",
        "@daily",
        "@every 90m",
        "5m",
        "2h",
        "1h 30m",
        "5/10 * * * *",
        "0 0 31 2,*/6 *",
        "0 0 31 4,6 1-5",
        "0 0 29 2 *",
    ],
)
def test_schedules(text: str) -> None:
    assert check_schedule(f" {text}  ".strip()) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("* * * *", "expected five fields (minute, hour, day, month, weekday), not 4"),
        ("61 * * * *", "the minute `61` is outside 0-59"),
        ("* 24 * * *", "the hour `24` is outside 0-23"),
        ("* * 0 * *", "the day of the month `0` is outside 1-31"),
        ("* * * foo *", "the month `foo` is outside 1-12"),
        ("* * * * 8", "the day of the week `8` is outside 0-7"),
        ("*/0 * * * *", "the minute `*/0` has a step of 0"),
        ("*/\u0663 * * * *", "cannot parse the minute `*/\u0663`"),
        ("a/b/c * * * *", "cannot parse the minute `a/b/c`"),
        ("5", "expected five fields (minute, hour, day, month, weekday), not 1"),
        ("10ms", "expected `@every` with a duration of a second or more, at most 3650d"),
        ("@every 0.5s", "expected `@every` with a duration of a second or more, at most 3650d"),
        ("99999999999d", "expected `@every` with a duration of a second or more, at most 3650d"),
        ("0 22-2 * * *", "the hour `22-2` runs backwards: write `22-23,0-2`"),
        ("0 0 * * sat-sun", "the day of the week `sat-sun` runs backwards: write `sat-7,0-sun`"),
        ("0 0 30-31/1 feb *", "the day of the month `30-31/1` never comes in the month `feb`"),
        ("9" * 5_000 + " * * * *", f"the minute `{'9' * 5_000}` is outside 0-59"),
        (
            "@fortnightly",
            (
                "expected one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually "
                "or `@every 10m`"
            ),
        ),
    ],
)
def test_invalid_schedules(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_schedule(text)
    assert str(caught.value) == message
