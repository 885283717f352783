"""Dates later than the clock, at which an incremental source must not continue."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

TOLERANCE: Final = timedelta(days=1)
"""More than clocks differ, and than any zone is ahead of UTC."""

EPOCHS: Final = 10**9, 41 * 10**8
"""Seconds since 1970 at the beginning of the years 2001 and 2100, roughly."""

_DATED = re.compile(r"(\d{4,})-\d\d-\d\d")


def is_future(value: object, now: datetime, known: object = None) -> bool:
    """Return whether a value is the text of a date or time more than a day after `now`.

    A number is in the future if it would be, read as `known` has to be: milliseconds among seconds. A single
    number may be an identifier.
    """
    if not isinstance(value, str) or not (dated := _DATED.match(value)):
        return _thousands(value) > _thousands(known) >= 0
    if len(dated[1]) > 4:
        return True
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return False
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) > now + TOLERANCE


def _thousands(value: object) -> int:
    """Return 0 for seconds since 1970, 1 for milliseconds, 2 for microseconds, 3 for nanoseconds, else -1."""
    if isinstance(value, str) and len(value) < 20 and value.isdecimal():
        value = int(value)
    if not isinstance(value, int | float):
        return -1
    first, last = EPOCHS
    return next((power for power in range(4) if first * 1000**power <= value < last * 1000**power), -1)


def note_of_future(column: str) -> str:
    """Return the name of the counter for records whose value is later than the clock."""
    return (
        f"note: reads records again in each run whose `{column}` is later than the clock (or in another unit "
        "of time than others), because it would skip everything until then; correct these values, or leave "
        "them out"
    )


def note_of_start(column: str, pipeline: str) -> str:
    """Return the name of the counter for a source that continues after such a value."""
    return (
        f"note: continues after a `{column}` later than the clock, from an earlier run, and skips everything "
        f"until then; to read all again: python -m engine bookmarks reset {pipeline}"
    )
