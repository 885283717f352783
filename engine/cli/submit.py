"""Start durable runs on Temporal, or resume earlier runs there.

  python -m engine submit pipelines.yaml --only blobs --param blobs.batch_size=50000 --wait
  python -m engine submit pipelines.yaml --resume blobs-20260131T120000-4f2a1b

Workers process the runs: `python -m engine worker`. With --wait the exit codes are those of `run`; Ctrl-C
stops waiting with code 130, leaves the run alone and prints how to watch or cancel it.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import RequestOptions, ServerArguments, SubmitOptions
from engine.cli.durable.server import require_temporal
from engine.cli.options import StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, SubmitOptions, "file", "only", "param", "resume", "wait")
    add_options(parser, RequestOptions)
    add_options(parser, StateOptions)
    add_options(parser, ServerArguments)


def execute(options: SubmitOptions) -> int:
    """Start the runs; 0 if the server accepted them."""
    require_temporal()
    from engine.cli.durable.submit import submit
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: submit(options))
