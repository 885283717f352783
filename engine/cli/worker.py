"""Process durable runs until SIGINT or SIGTERM, then hand back the work in progress and exit.

Workers and submitters need the same file, environment and components, and all workers need a state store that
each can reach. docs/temporal.md is a walkthrough.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_file_argument, add_state_argument, at_least_one, more_than_none
from engine.cli.durable.server import add_server_arguments, require_temporal
from engine.cli.options import WorkerOptions

ROLES = ("workflows", "planning", "work")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_file_argument(parser)
    add_state_argument(parser)
    add_server_arguments(parser)
    parser.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        dest="roles",
        help="poll only this task queue; repeatable (default: all)",
    )
    parser.add_argument(
        "--slots", type=at_least_one, metavar="N", help="chunks processed concurrently (default: 4)"
    )
    parser.add_argument(
        "--grace",
        type=more_than_none,
        metavar="SECONDS",
        help="shutdown grace period in seconds (default: 60)",
    )
    parser.add_argument(
        "--stall-after",
        type=more_than_none,
        metavar="SECONDS",
        help="stop a chunk that makes no progress for this long (default: 600)",
    )
    parser.add_argument(
        "--chunks-per-second",
        type=more_than_none,
        metavar="N",
        help="maximum chunks started per second on the whole queue (default: no limit)",
    )
    parser.add_argument(
        "--build-id",
        metavar="ID",
        help="version of file and code; a run stays with the version that started it (default: unversioned)",
    )
    parser.add_argument("--memory", metavar="SIZE", help="memory limit, e.g. 512MiB (default: 256MiB)")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics at HOST:PORT")
    parser.add_argument("--otlp", metavar="URL", help="send OpenTelemetry metrics to URL")
    parser.add_argument("--traces", metavar="URL", help="send OpenTelemetry traces to URL, over HTTP (OTLP)")
    parser.add_argument(
        "--log-format",
        choices=("json", "console", "none"),
        help="format of events on standard error (default: json)",
    )


def execute(options: WorkerOptions) -> int:
    """Run the worker; 0 after a clean end."""
    require_temporal()
    from engine.cli.durable.worker import work
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: work(options))
