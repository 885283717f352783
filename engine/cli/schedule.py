"""Schedule pipelines on the Temporal server by the `schedule:` and `time_zone:` of each.

python -m engine schedule create pipelines.yaml
python -m engine schedule list
python -m engine schedule pause blobs
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.durable.options import RequestOptions, ScheduleOptions, ServerArguments
from engine.cli.durable.server import require_temporal
from engine.cli.options import DEFAULT_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|pause|resume|delete")
    creating = actions.add_parser(
        "create", help="create or update a schedule for each pipeline with a `schedule:`"
    )
    add_options(
        creating,
        ScheduleOptions,
        "file",
        only="schedule only this pipeline; repeatable",
        param="set a parameter of every run; repeatable",
    )
    add_options(creating, ScheduleOptions, "overlap", "catch_up", "state_dir", "state")
    add_options(creating, RequestOptions)
    add_options(creating, ServerArguments)
    listing = actions.add_parser("list", help="list schedules, one per line")
    add_options(listing, ScheduleOptions, "json")
    add_options(listing, ServerArguments)
    for name, help_ in (
        ("pause", "pause the schedule of a pipeline"),
        ("resume", "resume the schedule of a pipeline"),
        ("delete", "delete a schedule; a run in progress continues"),
    ):
        one = actions.add_parser(name, help=help_)
        add_options(one, ScheduleOptions, "pipeline")
        one.add_argument(
            "--file", metavar="FILE", help=f"where aliases are looked up ({DEFAULT_FILE}, if it exists)"
        )
        add_options(one, ServerArguments)


def execute(options: ScheduleOptions) -> int:
    """Execute the chosen action."""
    require_temporal()
    from engine.cli.durable.schedule import ACTIONS
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: ACTIONS[options.action](options))
