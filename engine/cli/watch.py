"""Watch a durable run in the live view, from any machine that reaches the state store.

Exit codes are those of `run`; Ctrl-C stops watching with code 130 and leaves the run alone.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_state_argument
from engine.cli.durable.server import add_server_arguments, require_temporal
from engine.cli.options import DEFAULT_FILE, WatchOptions

SUMMARY = "watch a durable run"
OPTIONS = WatchOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("run", metavar="RUN", help="id of the run, as `runs list` shows it")
    parser.add_argument(
        "--progress",
        choices=("auto", "live", "plain", "json", "none"),
        default="auto",
        help="progress display (default: auto: live on a terminal, otherwise a plain line every few seconds)",
    )
    add_state_argument(parser)
    add_server_arguments(parser)
    parser.set_defaults(file=DEFAULT_FILE, quiet=False, wait=False)


def execute(options: WatchOptions) -> int:
    """Watch the run until it ends."""
    require_temporal()
    from engine.cli.durable.watch import watch
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: watch(options))
