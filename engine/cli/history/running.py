"""`top`: the runs in progress, refreshed at an interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from engine.cli.display.numbers import Rate, count, duration, rate
from engine.cli.display.refresh import refresh
from engine.cli.display.table import aligned
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.history.list_runs import Entry, entry_of
from engine.cli.options import TopOptions
from engine.cli.state import store_of
from engine.contract.clock import SystemClock
from engine.contract.types import JsonValue
from engine.state import RunStatus, StateStore


@dataclass(frozen=True, slots=True)
class _Row:
    """A run at one moment; `per_second`: records read per second, None in the first sample."""

    entry: Entry
    seconds: float
    per_second: float | None

    def to_json(self) -> dict[str, JsonValue]:
        record, tally = self.entry.record, self.entry.tally
        return {
            "run_id": record.run_id,
            "pipeline": record.pipeline,
            "status": self.entry.status,
            "seconds": round(self.seconds, 1),
            "tally": tally.to_json(),
            "records_per_second": round(self.per_second or 0.0, 1),
        }

    def cells(self) -> tuple[str, ...]:
        record, tally = self.entry.record, self.entry.tally
        return (
            record.run_id,
            self.entry.status_shown,
            duration(self.seconds),
            count(tally.read),
            count(tally.written),
            count(tally.dead),
            "-" if self.per_second is None else rate(self.per_second),
        )


async def show_running(options: TopOptions) -> int:
    """Print the runs in progress until interrupted, or once.

    Raises:
        ConfigError: the interval is too short.
        StateError: the store cannot be used.
    """
    rates: dict[str, Rate] = {}
    async with store_of(options) as store:

        async def text() -> str:
            rows = await _look(store, rates)
            if options.json:
                return json.dumps([row.to_json() for row in rows]) + "\n"
            return printable(_table(rows))

        await refresh(text, options.interval, once=options.once, clear=not options.json)
    return ExitCode.COMPLETED


async def _look(store: StateStore, rates: dict[str, Rate]) -> list[_Row]:
    clock, rows = SystemClock(), []
    for record in await store.list_runs():
        if record.status is RunStatus.RUNNING:
            entry = await entry_of(store, record)
            known = record.run_id in rates
            growth = rates.setdefault(record.run_id, Rate()).update(clock.monotonic(), entry.tally.read)
            seconds = (clock.now() - record.began).total_seconds()
            rows.append(_Row(entry, seconds, growth if known else None))
    return rows


def _table(rows: Sequence[_Row]) -> str:
    if not rows:
        return "no runs in progress\n"
    head = ("run", "status", "time", "read", "written", "dead", "records/s")
    lines = aligned([head, *(row.cells() for row in rows)], right=range(2, len(head)))
    return "\n".join(lines) + "\n"
