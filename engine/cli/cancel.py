"""Cancel a durable run: workers deliver what they have read; the rest can be resumed.

python -m engine cancel blobs-20260131T120000-4f2a1b
python -m engine submit --resume blobs-20260131T120000-4f2a1b
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import DurableOptions, ServerArguments
from engine.cli.durable.server import require_temporal
from engine.cli.options import StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, DurableOptions, "run")
    add_options(parser, StateOptions)
    add_options(parser, ServerArguments)


def execute(options: DurableOptions) -> int:
    """Request the cancellation; 0 if the server accepted it."""
    require_temporal()
    from engine.cli.durable.control import cancel
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: cancel(options))
