"""Process durable runs until SIGINT or SIGTERM, then hand back the work in progress and exit.

Workers and submitters need the same file, environment and components, and all workers need a state store that
each can reach. docs/temporal.md is a walkthrough.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import ServerArguments, WorkerOptions
from engine.cli.durable.server import require_temporal
from engine.cli.options import FileOptions, StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, FileOptions)
    add_options(parser, StateOptions)
    add_options(parser, ServerArguments)
    add_options(parser, WorkerOptions)


def execute(options: WorkerOptions) -> int:
    """Run the worker; 0 after a clean end."""
    require_temporal()
    from engine.cli.durable.worker import work
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: work(options))
