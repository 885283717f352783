"""Have pipelines run by the clock: the `schedule:` of each, kept by the Temporal server, in UTC.

python -m engine schedule create pipelines.yaml
python -m engine schedule list
python -m engine schedule pause blobs
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import DEFAULT_FILE, add_state_argument
from engine.cli.durable.server import add_request_arguments, add_server_arguments, require_temporal

SUMMARY = "have pipelines run by the clock, on Temporal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|pause|resume|delete")
    creating = actions.add_parser("create", help="for each pipeline of a file that has a `schedule:`")
    creating.add_argument("file", nargs="?", default=DEFAULT_FILE, metavar="FILE", help="(pipelines.yaml)")
    creating.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable")
    creating.add_argument(
        "--param", action="append", default=[], metavar="PIPELINE.NAME=VALUE", help="of every run; repeatable"
    )
    creating.add_argument(
        "--overlap",
        choices=("skip", "buffer_one", "cancel_other"),
        default="skip",
        help="when one is due and the last is under way: leave it out, have it wait, cancel the last (skip)",
    )
    creating.add_argument(
        "--catch-up",
        default="5m",
        metavar="AGE",
        help="make up for runs that were missed within this time, as in 10m or 2h (5m)",
    )
    add_state_argument(creating)
    add_request_arguments(creating)
    add_server_arguments(creating)
    listing = actions.add_parser("list", help="a line each")
    listing.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_server_arguments(listing)
    for name, help_ in (
        ("pause", "start no more runs of a pipeline by the clock"),
        ("resume", "start them again"),
        ("delete", "remove a schedule; a run under way goes on"),
    ):
        one = actions.add_parser(name, help=help_)
        one.add_argument("pipeline", metavar="PIPELINE", help="or an alias of it")
        one.add_argument(
            "--file", metavar="FILE", help=f"where aliases are looked up ({DEFAULT_FILE}, if it is there)"
        )
        add_server_arguments(one)


def execute(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    require_temporal()
    from engine.cli.durable.schedule import ACTIONS
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: ACTIONS[options.action](options))
