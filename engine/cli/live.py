"""Progress on a terminal: a table that stays in its place, one row for each pipeline."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from engine.cli.numbers import Rate, count, duration, rate, read_here, size
from engine.cli.session import Entry, Session

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["show", "table"]

REFRESH = 0.25
WIDE = 100  # columns from which on every figure has a place
NARROW = 80  # columns below which there is room for the most important ones only


async def show(session: Session, *, task_status: TaskStatus[None]) -> None:
    """Draw until cancelled; what was drawn is then wiped, the summary takes its place."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    rates: dict[str, Rate] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        task_status.started()
        while True:
            live.update(table(session, rates, console.width), refresh=True)
            await anyio.sleep(REFRESH)


def table(session: Session, rates: dict[str, Rate], width: int) -> Table:
    """What is drawn; the columns depend on the width alone, so that nothing moves."""
    from rich.table import Table

    wide, narrow = width >= WIDE, width < NARROW
    # the terminal writes ^C behind the last row: there must be room, or it would break the line
    room = max(1, width - len("^C^C^C"))
    drawn = Table(box=None, pad_edge=False, width=room, padding=(0, 2, 0, 0))
    drawn.add_column("pipeline", no_wrap=True, overflow="ellipsis", ratio=3, style="bold")
    for title, least in (("read", 9), ("written", 9), ("rec/s", 7)):
        if title == "read" and narrow:
            continue
        drawn.add_column(title, justify="right", no_wrap=True, min_width=least)
    if wide:
        drawn.add_column("in flight", justify="right", no_wrap=True, min_width=13)
    drawn.add_column("dead", justify="right", no_wrap=True, min_width=5)
    if wide:
        drawn.add_column("time", justify="right", no_wrap=True, min_width=7)
    drawn.add_column("state", no_wrap=True, overflow="ellipsis", ratio=4)
    for entry in list(session.entries.values()):
        cells = _row(entry, rates.setdefault(entry.name, Rate()), wide=wide)
        drawn.add_row(*([cells[0], *cells[2:]] if narrow else cells))
    return drawn


def _row(entry: Entry, speed: Rate, *, wide: bool) -> list[str]:
    snapshot = entry.snapshot()
    if snapshot is None:
        state = entry.report.error if entry.report else entry.trouble or "starting"
        return [entry.name, "", "", "", *([""] if wide else []), "", *([""] if wide else []), state]
    tally = entry.report.tally if entry.report else snapshot.tally
    per_second = "" if entry.report else rate(speed.update(monotonic(), read_here(snapshot.nodes)))
    in_flight = f"{size(snapshot.bytes_in_flight)} / {size(snapshot.bytes_budget)}"
    return [
        entry.name,
        count(tally.read),
        count(tally.written),
        per_second,
        *([in_flight if entry.report is None else ""] if wide else []),
        f"[red]{count(tally.dead)}[/red]" if tally.dead else "0",
        *([duration(snapshot.elapsed)] if wide else []),
        _state(entry),
    ]


def _state(entry: Entry) -> str:
    from rich.markup import escape

    if entry.report is not None:
        colour = "green" if entry.report.ok else "yellow" if entry.report.status == "interrupted" else "red"
        return f"[{colour}]{entry.report.status}[/{colour}]"
    snapshot = entry.snapshot()
    assert snapshot is not None, "only asked about entries that have a run"
    if snapshot.draining:
        return "[yellow]draining[/yellow]"
    waits = snapshot.waits_for
    return f"waits for {escape(waits)}" if waits else "running"
