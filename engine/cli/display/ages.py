"""Format and parse ages."""

from __future__ import annotations

from datetime import datetime, timedelta

from engine.cli.display.numbers import count
from engine.contract.clock import timestamp
from engine.errors import ConfigError
from engine.units import parse_duration


def age(seconds: float) -> str:
    """Format an age: 45 s, 12 min, 5 h, 30 d; never below 0."""
    for unit, length, longest in (("s", 1, 60), ("min", 60, 3_600), ("h", 3_600, 172_800)):
        if seconds < longest:
            return f"{max(0, int(seconds // length))} {unit}"
    return f"{count(seconds // 86_400)} d"


def older_than(text: str, now: datetime) -> str:
    """Return the moment that is `text` ago, e.g. 12h or 30d (ISO 8601).

    Raises:
        ConfigError: the text is not an age.
    """
    try:
        return timestamp(now - timedelta(seconds=parse_duration(text)))
    except OverflowError:
        raise ConfigError(f"--older-than: {text!r} is before the year 1; give a shorter age") from None
    except ValueError as error:
        raise ConfigError(f"--older-than: {error}, got {text!r}") from None
