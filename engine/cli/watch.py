"""Watch a durable run in the live view, from any machine that reaches the state store.

Exit codes are those of `run`; Ctrl-C stops watching with code 130 and leaves the run alone.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import DurableOptions, ServerArguments
from engine.cli.durable.server import require_temporal
from engine.cli.options import StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, DurableOptions, "run", "progress")
    add_options(parser, StateOptions)
    add_options(parser, ServerArguments)


def execute(options: DurableOptions) -> int:
    """Watch the run until it ends."""
    require_temporal()
    from engine.cli.durable.watch import watch
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: watch(options))
