"""Validate schedules: five cron fields, a shorthand such as `@daily`, or an interval such as `5m`."""

from __future__ import annotations

import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.units import parse_duration

_FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_NAMES: Final = {
    name: number
    for names in (
        ("jan feb mar apr may jun jul aug sep oct nov dec", 1),
        ("sun mon tue wed thu fri sat", 0),
    )
    for number, name in enumerate(names[0].split(), names[1])
}
_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LONGEST: Final = 3650 * 86400.0
_SHORTHANDS: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_INTERVAL: Final = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:ms|s|m|h|d)\s*)+", re.IGNORECASE)
_STEP: Final = re.compile(r"(\*|[0-9a-z]+(?:-[0-9a-z]+)?)(?:/([0-9]+))?", re.IGNORECASE)


def check_schedule(text: str) -> str:
    """Validate a schedule and return it without extra spaces.

    Raises:
        ValueError: names the wrong field.
    """
    words = text.split()
    interval = interval_of(text)
    if interval is not None:
        if not 1 <= interval <= _LONGEST:
            raise ValueError("expected `@every` with a duration of a second or more, at most 3650d")
    elif text.startswith("@"):
        if text.strip() not in _SHORTHANDS:
            raise ValueError(f"expected one of {', '.join(_SHORTHANDS)} or `@every 10m`")
    elif len(words) != len(_FIELDS):
        raise ValueError(f"expected five fields (minute, hour, day, month, weekday), not {len(words)}")
    else:
        values = [_values(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
        if words[4].startswith("*") and min(values[2]) > max(_DAYS[month - 1] for month in values[3]):
            raise ValueError(f"the day of the month `{words[2]}` never comes in the month `{words[3]}`")
    return " ".join(words)


def check_time_zone(name: str) -> str:
    """Return the name of a time zone that this machine knows.

    Raises:
        ValueError: it knows no such zone.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("expected a time zone such as Europe/Berlin") from error
    return name


def interval_of(text: str) -> float | None:
    """Return the seconds between two runs for `5m`, `2h` or `@every 90m`; None for clock times.

    Raises:
        ValueError: `@every` without a duration.
    """
    words = text.split()
    if words and words[0] == "@every":
        return parse_duration(" ".join(words[1:]))
    # a bare number is not a schedule: it may be meant as a minute of the hour
    return parse_duration(text) if _INTERVAL.fullmatch(text.strip()) else None


def _values(word: str, name: str, lowest: int, highest: int) -> set[int]:
    values: set[int] = set()
    for part in word.split(","):
        matched = _STEP.fullmatch(part)
        if matched is None:
            raise ValueError(f"cannot parse the {name} `{word}`")
        texts = [str(lowest), str(highest)] if matched[1] == "*" else matched[1].split("-")
        bounds = [bound for text in texts if lowest <= (bound := _number(text)) <= highest]
        if len(bounds) < len(texts):
            raise ValueError(f"the {name} `{word}` is outside {lowest}-{highest}")
        if bounds[0] > bounds[-1]:
            raise ValueError(
                f"the {name} `{word}` runs backwards: write `{texts[0]}-{highest},{lowest}-{texts[-1]}`"
            )
        step = 1 if matched[2] is None else _number(matched[2])
        if step < 1:
            raise ValueError(f"the {name} `{word}` has a step of 0")
        is_open = matched[1] == "*" or (matched[2] is not None and len(texts) == 1)
        values |= set(range(bounds[0], (highest if is_open else bounds[-1]) + 1, step))
    return values


def _number(text: str) -> int:
    """Return the number that a text is or names; if it is neither, a number that is never allowed."""
    if text.isdigit():
        return int(text[:9])
    return _NAMES.get(text.lower(), -1)
