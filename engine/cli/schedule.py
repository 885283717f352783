"""Schedule pipelines on the Temporal server by the `schedule:` and `time_zone:` of each.

python -m engine schedule create pipelines.yaml
python -m engine schedule list
python -m engine schedule pause blobs
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_file_argument, add_state_argument
from engine.cli.durable.server import add_request_arguments, add_server_arguments, require_temporal
from engine.cli.options import DEFAULT_FILE, ScheduleOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|pause|resume|delete")
    creating = actions.add_parser(
        "create", help="create or update a schedule for each pipeline with a `schedule:`"
    )
    add_file_argument(creating)
    creating.add_argument(
        "--only", action="append", metavar="NAME", help="schedule only this pipeline; repeatable"
    )
    creating.add_argument(
        "--param",
        action="append",
        metavar="PIPELINE.NAME=VALUE",
        help="set a parameter of every run; repeatable",
    )
    creating.add_argument(
        "--overlap",
        choices=("skip", "buffer_one", "cancel_other"),
        help=(
            "if the last run is still in progress: skip the new one, buffer one, or cancel the last "
            "(default: by `if_running`, else skip)"
        ),
    )
    creating.add_argument(
        "--catch-up",
        metavar="AGE",
        help="catch up on runs missed within this time, e.g. 10m or 2h (default: by `catch_up`, else 5m)",
    )
    add_state_argument(creating)
    add_request_arguments(creating)
    add_server_arguments(creating)
    listing = actions.add_parser("list", help="list schedules, one per line")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")
    add_server_arguments(listing)
    for name, help_ in (
        ("pause", "pause the schedule of a pipeline"),
        ("resume", "resume the schedule of a pipeline"),
        ("delete", "delete a schedule; a run in progress continues"),
    ):
        one = actions.add_parser(name, help=help_)
        one.add_argument("pipeline", metavar="PIPELINE", help="or an alias of it")
        one.add_argument(
            "--file", metavar="FILE", help=f"where aliases are looked up ({DEFAULT_FILE}, if it exists)"
        )
        add_server_arguments(one)


def execute(options: ScheduleOptions) -> int:
    """Execute the chosen action."""
    require_temporal()
    from engine.cli.durable.schedule import ACTIONS
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: ACTIONS[options.action](options))
