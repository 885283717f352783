"""Live progress on a terminal: a table with one row per pipeline."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from engine.cli.display.numbers import Rate, count, duration, rate, size
from engine.cli.display.protocol import Shown, ShownRuns
from engine.cli.display.terminal import printable
from engine.flow.stats import RunSnapshot, read_here

if TYPE_CHECKING:
    from rich.table import Table

REFRESH = 0.25
WIDE = 100  # columns: from this width every figure is shown
NARROW = 80  # columns: below this width only the most important figures are shown
GAP = 2
MIN_STATE = len("interrupted")

_FIGURES = (
    # title, width, whether a narrower terminal shows it
    ("read", 10, True),
    ("written", 10, True),
    ("rec/s", 7, True),
    ("in flight", 13, False),
    ("dead", 6, True),
    ("time", 7, False),
)


async def show(session: ShownRuns, *, task_status: TaskStatus[None]) -> None:
    """Draw until cancelled, then erase the table."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    rates: dict[str, Rate] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        task_status.started()
        while True:
            live.update(table(session, rates, console.width), refresh=True)
            await anyio.sleep(REFRESH)


def table(session: ShownRuns, rates: dict[str, Rate], width: int) -> Table:
    """Return the table; column widths depend only on the terminal, so that columns never jump."""
    from rich.table import Table

    wide, narrow = width >= WIDE, width < NARROW
    columns = [column for column in _FIGURES if (wide or column[2]) and not (narrow and column[0] == "read")]
    # leave room for the ^C that the terminal writes after the last row, or it would wrap the line
    rest = width - len("^C^C^C") - sum(column[1] + GAP for column in columns)
    state = max(MIN_STATE, rest // 2)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    drawn.add_column(
        "pipeline", no_wrap=True, overflow="ellipsis", width=max(4, rest - state - GAP), style="bold"
    )
    for title, size_, _ in columns:
        drawn.add_column(title, justify="right", no_wrap=True, width=size_)
    drawn.add_column("state", no_wrap=True, overflow="ellipsis", width=state)
    for entry in list(session.entries.values()):
        figures = _figures(entry, rates.setdefault(entry.name, Rate()))
        drawn.add_row(entry.name, *(figures[title] for title, _, _ in columns), _state(entry))
    return drawn


def _figures(entry: Shown, speed: Rate) -> dict[str, str]:
    snapshot = entry.snapshot()
    if snapshot is None:
        return dict.fromkeys((title for title, _, _ in _FIGURES), "")
    ended = entry.report is not None
    tally = entry.report.tally if entry.report else snapshot.tally
    return {
        "read": count(tally.read),
        "written": count(tally.written),
        "rec/s": "" if ended else rate(speed.update(monotonic(), read_here(snapshot.nodes))),
        "in flight": "" if ended else _in_flight(snapshot),
        "dead": f"[red]{count(tally.dead)}[/red]" if tally.dead else "0",
        "time": duration(snapshot.elapsed),
    }


def _in_flight(snapshot: RunSnapshot) -> str:
    if not snapshot.bytes_budget:
        return ""  # unknown for a run of another process
    return f"{size(snapshot.bytes_in_flight)} / {size(snapshot.bytes_budget)}"


def _state(entry: Shown) -> str:
    from rich.markup import escape

    snapshot = entry.snapshot()
    if entry.report is not None:
        colour = "green" if entry.report.ok else "yellow" if entry.report.status == "interrupted" else "red"
        return f"[{colour}]{entry.report.status}[/{colour}]"
    if snapshot is None:
        return escape(printable(entry.trouble)) or "starting"
    if snapshot.state:
        return escape(printable(snapshot.state))
    if snapshot.draining:
        return "[yellow]draining[/yellow]"
    waits = snapshot.waits_for
    return f"waiting for {escape(printable(waits))}" if waits else "running"
