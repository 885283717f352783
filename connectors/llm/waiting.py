"""Read how long an endpoint asks to wait, in all the forms that endpoints use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from connectors.retry_after import (
    duration_seconds,
    is_used_up,
    reset_seconds,
    retry_after_seconds,
    server_time,
    until_seconds,
)

_LONGEST: Final = 3600.0  # a wrong clock of a server must not stop a run
_SAID: Final = re.compile(
    r"(?:try again|retry|wait|resets?|available)(?: \w+){0,3}? (?:in|after|for)?\s*"
    r"((?:\d+(?:\.\d+)?\s*(?:milliseconds?|ms|days?|hours?|min(?:ute)?s?|sec(?:ond)?s?|[dhms])(?![a-z])"
    r"\s*(?:and )?)+)",
    re.IGNORECASE,
)
_SAID_MOMENT: Final = re.compile(
    r"(?:try again|retry|wait|resets?)(?: \w+){0,2} (\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.:+Z-]*)"
)
_OF_DAYS: Final = re.compile(
    r"\bper[ _-](?:day|month)\b|\b[RT]PD\b|ByDay\b|per 86,?400 ?s|"
    r"\b(?:daily|monthly)[ _-](?:\w+[ _-]){0,3}(?:limit|quota|allowance|allocation|usage|cap)|tier_daily",
    re.IGNORECASE,
)
_NONE: Final = re.compile(r"\blimit:? 0(?![\w.]|,\d| (?:\w+ )?(?:remaining|left)\b)", re.IGNORECASE)
_OF_DAYS_AT_GOOGLE: Final = re.compile(r"PerDay(?:Per|\b)")
_SHORT: Final = 60.0
_MISTAKEN: Final = 32 * 86_400.0
_WAIT_FIELDS: Final = {
    "retrydelay": 1.0, "retryafter": 1.0, "retryafterseconds": 1.0, "estimatedtime": 1.0,
    "retryafterms": 0.001,
}  # fmt: skip
_LIMITS: Final = ("requests", "tokens", "req-minute", "tokens-minute", "requests-minute")
_RESETS: Final = (
    "requests", "tokens", "input-tokens", "output-tokens", "project-tokens", "requests-minute",
    "tokens-minute",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A quota exhausted for long: `seconds` until it refills, None if unknown, infinity if it is 0."""

    seconds: float | None


def wait_seconds(headers: Mapping[str, str], body: object, message: str, now: datetime) -> float | None:
    """Return the seconds that an answer asks to wait; None if it does not say.

    In this order: `retry-after-ms` and `Retry-After`; the body (Gemini's RetryInfo, `retry_after`,
    the headers of a provider that a gateway passes on);
    the reset of an exhausted limit (`x-ratelimit-reset-tokens: 6m0s`, `anthropic-ratelimit-…-reset`);
    the message ("Please try again in 20s"). More than an hour counts as an hour.
    """
    found = _asked(headers, body, message, now)
    return None if found is None else min(found, _LONGEST)


def used_up(headers: Mapping[str, str], body: object, message: str, now: datetime) -> UsedUp | None:
    """Return when a quota refills that is not worth waiting for; None if waiting helps.

    That is a daily or monthly quota according to the headers, the body or the message, unless it refills
    within a minute, or one that asks to wait for more than an hour. A wait of months means a wrong clock.
    A limit of 0 never refills: the account may not use the model.
    """
    limits = (headers.get(f"x-ratelimit-limit-{kind}") for kind in _LIMITS)
    if _NONE.search(message) or "0" in limits:
        return UsedUp(math.inf)
    now = server_time(headers, now)
    resets = [
        until_seconds(headers.get(f"x-ratelimit-reset-{kind}-day", ""), now)
        for kind in ("requests", "tokens")
        if is_used_up(headers.get(f"x-ratelimit-remaining-{kind}-day"))
    ]
    if resets:
        return _until_then(max((one for one in resets if one is not None), default=None))
    asked = _asked(headers, body, message, now)
    words = f"{message} {body if isinstance(body, Mapping | list) else ''}"
    if _OF_DAYS_AT_GOOGLE.search(words):
        return UsedUp(None)  # it asks to wait for only seconds, even if the quota is daily
    if _OF_DAYS.search(words):
        fills_up = asked is not None and 0 < asked <= _SHORT  # 10,000 requests a day are one in 8.64 s
        return None if fills_up else _until_then(asked)
    return UsedUp(asked) if asked is not None and _LONGEST < asked < _MISTAKEN else None


def _until_then(seconds: float | None) -> UsedUp:
    return UsedUp(seconds if seconds is not None and 0 <= seconds < _MISTAKEN else None)


def _asked(headers: Mapping[str, str], body: object, message: str, now: datetime) -> float | None:
    now = server_time(headers, now)
    for found in (
        retry_after_seconds(headers, now, math.inf),
        _of_body(body),
        _of_passed_on(body, now),
        _of_resets(headers, now),
        _of_message(message, now),
    ):
        if found is not None:
            return max(found, 0.0)
    return None


def _of_body(body: object) -> float | None:
    for hint, unit in _hints(body, 4):
        value = hint.get("seconds") if isinstance(hint, Mapping) else hint
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return value * unit
        if isinstance(value, str) and (seconds := duration_seconds(value)) is not None:
            return seconds * unit
    return None


def _of_passed_on(body: object, now: datetime) -> float | None:
    """Read `{"error": {"metadata": {"headers": {…}}}}`."""
    for name in ("error", "metadata", "headers"):
        body = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping):
        return None
    return _of_resets({str(name).casefold(): str(value) for name, value in body.items()}, now)


def _hints(body: object, depth: int) -> Iterator[tuple[Any, float]]:
    """Yield values with names of delays, down to some depth, each with its unit in seconds."""
    if depth and isinstance(body, Mapping):
        for name, value in body.items():
            unit = _WAIT_FIELDS.get(str(name).replace("_", "").replace("-", "").casefold())
            if unit is not None:
                yield value, unit
            else:
                yield from _hints(value, depth - 1)
    elif depth and isinstance(body, list):
        for value in body:
            yield from _hints(value, depth)


def _of_resets(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds until all exhausted limits are reset."""
    waits = []
    for kind in _RESETS:
        for remaining, reset in (
            (f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
            (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset"),
        ):
            if is_used_up(headers.get(remaining)):
                waits.append(until_seconds(headers.get(reset, ""), now))
    waits.append(reset_seconds(headers, now))
    return max((wait for wait in waits if wait is not None), default=None)


def _of_message(message: str, now: datetime) -> float | None:
    said = _SAID.search(message)
    if said:
        return duration_seconds(said[1].replace("and", " "))
    moment = _SAID_MOMENT.search(message)
    return until_seconds(moment[1].rstrip(".:-"), now) if moment else None
