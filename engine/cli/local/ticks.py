"""Compute when a schedule is due, in a time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from engine.config.cron import interval_of

_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = "%Y%m%dT%H%M%SZ"
_MARK = "-tick-"


def ticks_after(schedule: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the moments of a valid schedule after a given one, in UTC, within fifty years.

    An interval counts from 1970, so that it has the same moments in every process. A fixed time (no `*` in
    the minute or the hour) that is skipped when the clock goes forward is due right after the gap; a repeated
    one is due the first time.
    """
    seconds = interval_of(schedule)
    if seconds is not None:
        step = timedelta(seconds=seconds)
        tick = _EPOCH + ((after - _EPOCH) // step + 1) * step
        while True:
            yield tick
            tick += step
    from cronsim import CronSim, CronSimError

    try:
        for tick in CronSim(_SHORTHANDS.get(schedule, schedule), after.astimezone(ZoneInfo(time_zone))):
            yield tick.astimezone(UTC)
    except CronSimError:
        return  # a day that never exists


def name_of(pipeline: str, tick: datetime) -> str:
    """Return the run id of a tick; the state store accepts it once, so no tick runs twice."""
    return f"{pipeline}{_MARK}{tick.astimezone(UTC):{_NAME}}"


def tick_of(pipeline: str, run_id: str) -> datetime | None:
    """Return the tick of a run named by `name_of`; None for others."""
    before, mark, text = run_id.rpartition(_MARK)
    if not mark or before != pipeline:
        return None
    try:
        return datetime.strptime(text, _NAME).replace(tzinfo=UTC)
    except ValueError:
        return None
