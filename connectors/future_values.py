"""Dates later than the clock, at which an incremental source must not continue."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["is_future", "note_of_future", "note_of_start"]

TOLERANCE: Final = timedelta(days=1)
"""More than clocks differ, and than any zone is ahead of UTC."""

_DATED = re.compile(r"(\d{4,})-\d\d-\d\d")


def is_future(value: object, now: datetime) -> bool:
    """Return whether a value is the text of a date or time more than a day after `now`."""
    if not isinstance(value, str) or not (dated := _DATED.match(value)):
        return False
    if len(dated[1]) > 4:
        return True
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return False
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) > now + TOLERANCE


def note_of_future(column: str) -> str:
    """Return the name of the counter for records whose value is later than the clock."""
    return (
        f"note: reads records again in each run whose `{column}` is later than the clock, because it would "
        "skip everything until then; correct these values, or leave them out"
    )


def note_of_start(column: str, pipeline: str) -> str:
    """Return the name of the counter for a source that continues after such a value."""
    return (
        f"note: continues after a `{column}` later than the clock, from an earlier run, and skips everything "
        f"until then; to read all again: python -m engine bookmarks reset {pipeline}"
    )
