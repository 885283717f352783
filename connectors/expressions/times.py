"""Dates and times of records: ISO 8601 text, which sorts chronologically."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from connectors.expressions.failures import EvaluationError, kind_of

MAX_FORMAT: Final = 100
MAX_TIME: Final = 100
_SAFE_FORMAT: Final = re.compile(r"(?:[^%]|%[aAbBdHIjmMpSfyYzZUWuVG%])*")
SECONDS: Final = "seconds"
MILLISECONDS: Final = "milliseconds"


def check_format(format: str) -> str:  # noqa: A002 - the word that users write
    """Return a valid `strptime` format. Raises ValueError for any other text."""
    if format in (SECONDS, MILLISECONDS):
        return format
    names_nothing = "%" not in format.replace("%%", "")
    if names_nothing or len(format) > MAX_FORMAT or not _SAFE_FORMAT.fullmatch(format):
        raise ValueError(f"{format!r} is not a date format such as %d.%m.%Y")
    return format


def check_zone(zone: str) -> str:
    """Return the name of a known time zone. Raises ValueError for any other text."""
    try:
        _zone(zone)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"{zone!r} is not a time zone such as Europe/Berlin") from None
    return zone


def parse_date(value: Any, format: Any = None) -> str:  # noqa: A002 - as above
    """The date in a text (ISO 8601, or by a `strptime` format), as 2026-03-01."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return _moment("date", value, format, "UTC", keep=True).date().isoformat()


def parse_datetime(value: Any, format: Any = None, zone: Any = "UTC") -> str:  # noqa: A002 - as above
    """The time in a text, in UTC, as 2026-03-01T12:30:00+00:00; `zone` is where it was without an offset."""
    return _moment("datetime", value, format, zone).astimezone(UTC).isoformat()


def show_date(value: Any, format: Any, zone: Any = "UTC") -> str:  # noqa: A002 - as above
    """The date or time in a `strftime` format, in a zone."""
    moment = _moment("format_date", value, None, "UTC")
    return moment.astimezone(_known_zone(zone)).strftime(_known_format(format))


def _moment(name: str, value: Any, format: Any, zone: Any, *, keep: bool = False) -> datetime:  # noqa: A002
    """Return a value as a time. `keep` keeps the text's own offset, and so its calendar day."""
    try:
        moment = _read(name, value, format)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=_known_zone(zone))
        if not keep:
            moment.astimezone(UTC)
    except (ValueError, OverflowError):
        by = f" in the format {format}" if format else ""
        raise EvaluationError(f"{name}: the value is not a time{by}") from None
    return moment


def _read(name: str, value: Any, format: Any) -> datetime:  # noqa: A002 - as above
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the caller gives it a zone
    if format in (SECONDS, MILLISECONDS) or (format is None and isinstance(value, int | float)):
        if isinstance(value, str) and len(value) <= MAX_TIME:
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise EvaluationError(f"{name}: expected a number of {format}, got {kind_of(value)}")
        return datetime.fromtimestamp(value / (1000 if format == MILLISECONDS else 1), UTC)
    if not isinstance(value, str):
        raise EvaluationError(f"{name}: expected text, got {kind_of(value)}")
    text = value.strip()
    if len(text) > MAX_TIME:
        raise ValueError("too long")
    if format is None:
        return datetime.fromisoformat(text)
    return datetime.strptime(text, _known_format(format))  # noqa: DTZ007 - the caller gives it a zone


def _known_format(format: Any) -> str:  # noqa: A002 - as above
    try:
        return check_format(format if isinstance(format, str) else "%")
    except ValueError as error:
        raise EvaluationError(str(error)) from None


def _known_zone(zone: Any) -> tzinfo:
    try:
        return _zone(check_zone(zone if isinstance(zone, str) else ""))
    except ValueError as error:
        raise EvaluationError(str(error)) from None


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
