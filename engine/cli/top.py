"""Show the runs in progress of a state store, in every process and on every machine that share it.

Counts are those of the ledger: settled records, committed about every 100 ms. Press Ctrl-C to leave.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.options import StateOptions, TopOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, TopOptions)
    add_options(parser, StateOptions)


def execute(options: TopOptions) -> int:
    """Show the runs."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.running import show_running

    return on_event_loop(lambda: show_running(options))
