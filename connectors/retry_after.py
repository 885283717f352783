"""Read how long a server asks to wait; `engine.flow.retry` waits as long.

That is `Retry-After` (RFC 9110, section 10.2.3), or the reset of a rate limit that is used up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_LONGEST = 3600.0
_DAY = 86_400.0
_UNITS: Final = {"d": _DAY, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}
_DURATION: Final = re.compile(
    r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|us|µs|d|days?|h|hours?|m|min(?:ute)?s?|s|sec(?:ond)?s?)(?![a-z])",
    re.IGNORECASE,
)
_ISO_DURATION: Final = re.compile(r"P(\d+D)?(?:T(.+))?", re.IGNORECASE)
_POLICY: Final = re.compile(r";\s*r=0\s*(?:;[^,]*?)?;\s*t=(\d+)|\bremaining=0,\s*reset=(\d+)")
_EPOCH_SECONDS: Final = 1_000_000_000.0  # larger numbers are timestamps, not durations
_EPOCH_MILLISECONDS: Final = 1_000_000_000_000.0


def retry_after_seconds(headers: Mapping[str, str], now: datetime, longest: float = _LONGEST) -> float | None:
    """Return the seconds that a response asks to wait, or None if absent or unreadable.

    It reads both forms of the standard (seconds, and an HTTP date), also an ISO date, seconds since 1970 and
    durations (`2m`, `PT20S`), and with precedence `retry-after-ms`, which OpenAI-compatible endpoints send
    (Azure: `x-ms-retry-after-ms`). A date is compared with the response's own `Date`, so that two clocks need
    not agree, or with `now` if it has none. A date in the past means 0; the result is at most `longest` (an
    hour).
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers.get(name))
        if milliseconds is not None:
            return min(milliseconds / 1000, longest)
    text = headers.get("retry-after")
    now = server_time(headers, now)
    # "5, 5" is the header twice
    seconds = duration_seconds(text.partition(",")[0]) if text else None
    moment = moment_of(text) if text and seconds is None else None
    if moment is not None:
        seconds = max((moment - now).total_seconds(), 0.0)
    elif seconds is not None and abs(seconds - now.timestamp()) < _DAY:
        seconds = max(seconds - now.timestamp(), 0.0)
    return None if seconds is None else min(seconds, longest)


def server_time(headers: Mapping[str, str], now: datetime) -> datetime:
    """Return the time by the server's clock when it responded; `now` if the response does not state it."""
    return moment_of(headers.get("date", "")) or now


def duration_seconds(text: str) -> float | None:
    """Return the seconds of `6m0s`, `250ms`, `PT1M30S` or a plain number; None for any other text."""
    text = text.strip()
    if iso := _ISO_DURATION.fullmatch(text):
        text = "".join(filter(None, iso.groups()))
    parts = _DURATION.findall(text)
    if parts and not _DURATION.sub("", text).strip():
        return sum(float(number) * _UNITS[_unit(unit)] for number, unit in parts)
    return _number(text)


def _unit(word: str) -> str:
    word = word.lower()
    if word in _UNITS:
        return word
    return "ms" if word.startswith("milli") else word[0]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    # A comparison with NaN is false, so NaN is refused with the negative numbers.
    return value if value is not None and value >= 0 else None


def moment_of(text: str) -> datetime | None:
    """Return the moment of an HTTP date or an ISO date; None for any other text."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or an offset beyond 32 bits
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
    # "-0000" parses as naive; RFC 9110 dates are always UTC
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def reset_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds until the reset of an exhausted rate limit; None if none is, or it does not say."""
    waits = []
    for prefix in ("x-ratelimit", "ratelimit", "x-rate-limit"):
        if is_used_up(headers.get(f"{prefix}-remaining")):
            reset = headers.get(f"{prefix}-reset-after") or headers.get(f"{prefix}-reset", "")
            waits.append(until_seconds(reset, now))
    # the IETF's drafts use a single header: `"default";r=0;t=30`, or `limit=9, remaining=0, reset=30`
    waits += [float(one or other) for one, other in _POLICY.findall(headers.get("ratelimit", ""))]
    return max((wait for wait in waits if wait is not None), default=None)


def is_used_up(remaining: str | None) -> bool:
    """Return whether a header says that nothing of a rate limit remains."""
    return re.fullmatch(r"\s*(?:-\d+(?:\.\d*)?|0(?:\.0*)?)\s*", remaining or "") is not None


def until_seconds(text: str, now: datetime) -> float | None:
    """Return the seconds until a time: a duration, a date, or (milli-, micro-) seconds since 1970."""
    seconds = duration_seconds(text)
    if seconds is not None and _EPOCH_SECONDS <= seconds < math.inf:
        while seconds >= _EPOCH_MILLISECONDS:
            seconds /= 1000
        return seconds - now.timestamp()
    if seconds is not None:
        return seconds
    moment = moment_of(text)
    return None if moment is None else (moment - now).total_seconds()
