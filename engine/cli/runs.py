"""List, show and forget runs.

  python -m engine runs list --pipeline blobs
  python -m engine runs list --watch
  python -m engine runs show blobs-20260131T120000-4f2a1b
  python -m engine runs prune --older-than 30d

Forgetting a run deletes its dead letters and makes it impossible to resume; delivered records stay.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.options import RunsOptions, StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|forget|prune")
    listing = actions.add_parser("list", help="list runs, one per line, newest last")
    add_options(listing, RunsOptions, "pipeline", "limit", "status")
    form = listing.add_mutually_exclusive_group()
    add_options(form, RunsOptions, "json", "watch")
    add_options(listing, RunsOptions, "interval", "state_dir", "state")

    showing = actions.add_parser("show", help="show one run in detail")
    add_options(showing, RunsOptions, "run", "file", json="print one JSON object")
    add_options(showing, StateOptions)

    forgetting = actions.add_parser("forget", help="delete a run with its splits and dead letters")
    add_options(forgetting, RunsOptions, "run", "yes", "state_dir", "state")

    pruning = actions.add_parser("prune", help="forget completed runs that have no open dead letters")
    add_options(pruning, RunsOptions, "older_than", "failed", "state_dir", "state")


def execute(options: RunsOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.forget_runs import forget_run, prune_runs
    from engine.cli.history.list_runs import list_runs, show_run

    actions = {"list": list_runs, "show": show_run, "forget": forget_run, "prune": prune_runs}
    return on_event_loop(lambda: actions[options.action](options))
