"""Control a durable run in progress.

  python -m engine control blobs-20260131T120000-4f2a1b pause
  python -m engine control blobs-20260131T120000-4f2a1b window 2

`pause` starts no further chunks until `resume`. `drain` starts none at all: once the chunks in progress are
done, the run ends as interrupted and can be resumed. `window` sets the concurrent chunks per shard.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import ControlOptions, ServerArguments
from engine.cli.durable.server import require_temporal
from engine.cli.options import StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, ControlOptions, "run", "action", "number")
    add_options(parser, StateOptions)
    add_options(parser, ServerArguments)


def execute(options: ControlOptions) -> int:
    """Send the command; 0 if the run accepted it."""
    require_temporal()
    from engine.cli.durable.control import steer
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: steer(options))
