"""List, show and forget runs.

  python -m engine runs list --pipeline blobs
  python -m engine runs list --watch
  python -m engine runs show blobs-20260131T120000-4f2a1b
  python -m engine runs prune --older-than 30d

Forgetting a run deletes its dead letters and makes it impossible to resume; delivered records stay.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_interval_argument, add_limit_argument, add_state_argument
from engine.cli.options import DEFAULT_FILE, RunsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|forget|prune")
    listing = actions.add_parser("list", help="list runs, one per line, newest last")
    listing.add_argument("--pipeline", metavar="NAME", help="only this pipeline")
    add_limit_argument(listing)
    listing.add_argument(
        "--status",
        choices=("completed", "failed", "outage", "interrupted", "running", "killed"),
        help="only runs of this status",
    )
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per line")
    form.add_argument("--watch", action="store_true", help="update the list until Ctrl-C")
    add_interval_argument(listing)
    add_state_argument(listing)

    showing = actions.add_parser("show", help="show one run in detail")
    showing.add_argument("run", metavar="RUN", help="id of the run, as `runs list` shows it")
    showing.add_argument(
        "--file", metavar="FILE", help=f"compare the run's plan with this file (default: {DEFAULT_FILE})"
    )
    showing.add_argument("--json", action="store_true", help="print one JSON object")
    add_state_argument(showing)

    forgetting = actions.add_parser("forget", help="delete a run with its splits and dead letters")
    forgetting.add_argument("run", metavar="RUN", help="id of the run, as `runs list` shows it")
    forgetting.add_argument(
        "--yes", action="store_true", help="forget the run even if it has open dead letters"
    )
    add_state_argument(forgetting)

    pruning = actions.add_parser("prune", help="forget completed runs that have no open dead letters")
    pruning.add_argument(
        "--older-than",
        required=True,
        metavar="AGE",
        help="only runs that ended longer ago than this, e.g. 12h or 30d",
    )
    pruning.add_argument(
        "--failed", action="store_true", help="failed and interrupted runs too; they can no longer be resumed"
    )
    add_state_argument(pruning)


def execute(options: RunsOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.forget_runs import forget_run, prune_runs
    from engine.cli.history.list_runs import list_runs, show_run

    actions = {"list": list_runs, "show": show_run, "forget": forget_run, "prune": prune_runs}
    return on_event_loop(lambda: actions[options.action](options))
