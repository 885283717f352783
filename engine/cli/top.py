"""Show the runs in progress of a state store, in every process and on every machine that share it.

Counts are those of the ledger: settled records, committed about every 100 ms. Press Ctrl-C to leave.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_interval_argument, add_state_argument
from engine.cli.options import TopOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_interval_argument(parser)
    parser.add_argument("--once", action="store_true", help="print the runs once and exit")
    parser.add_argument("--json", action="store_true", help="print one JSON array per update")
    add_state_argument(parser)


def execute(options: TopOptions) -> int:
    """Show the runs."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.running import show_running

    return on_event_loop(lambda: show_running(options))
