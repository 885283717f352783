"""Read the Retry-After header (RFC 9110, section 10.2.3); `engine.flow.retry` waits as long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after_seconds"]

_LONGEST = 3600.0
_DAY = 86_400.0


def retry_after_seconds(headers: Mapping[str, str], now: datetime, longest: float = _LONGEST) -> float | None:
    """Return the seconds that a response asks to wait, or None if absent or unreadable.

    It reads both forms of the standard (seconds, and an HTTP date compared with `now`), also an ISO date and
    seconds since 1970, and with precedence `retry-after-ms`, which OpenAI-compatible endpoints send (Azure:
    `x-ms-retry-after-ms`). A date in the past means 0; the result is at most `longest` (an hour), so that a
    wrong clock of a server cannot stop a run.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers.get(name))
        if milliseconds is not None:
            return min(milliseconds / 1000, longest)
    text = headers.get("retry-after")
    # "5s" is not standard, but is sent; "5, 5" is the header twice
    seconds = _number(text.partition(",")[0].strip().rstrip("sS") if text else None)
    if seconds is None:
        seconds = _until(text, now)
    elif abs(seconds - now.timestamp()) < _DAY:
        seconds = max(seconds - now.timestamp(), 0.0)
    return None if seconds is None else min(seconds, longest)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    # A comparison with NaN is false, so NaN is refused with the negative numbers.
    return value if value is not None and value >= 0 else None


def _until(text: str | None, now: datetime) -> float | None:
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
    if moment.tzinfo is None:
        # "-0000" parses as naive; RFC 9110 dates are always UTC
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
