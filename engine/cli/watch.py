"""Watch a durable run in the live view, from any machine that reaches the state store.

Exit codes are those of `run`; Ctrl-C stops watching with code 130 and leaves the run alone.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_progress_argument, add_state_argument
from engine.cli.durable.server import add_server_arguments, require_temporal
from engine.cli.options import DurableOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("run", metavar="RUN", help="id of the run, as `runs list` shows it")
    add_progress_argument(parser)
    add_state_argument(parser)
    add_server_arguments(parser)


def execute(options: DurableOptions) -> int:
    """Watch the run until it ends."""
    require_temporal()
    from engine.cli.durable.watch import watch
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: watch(options))
