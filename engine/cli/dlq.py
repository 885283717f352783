"""List, show, replay and discard dead letters: undeliverable records with their errors.

  python -m engine dlq list --pipeline blobs
  python -m engine dlq show 3f29a1c07e
  python -m engine dlq replay --pipeline blobs --patch 'file_name~^\\[DLQ\\]~'
  python -m engine dlq discard 3f29a1c07e --reason 'a test of the scanner'

Dead letters are read from the state store and from the ingest service named by the file or the state
directory. A replay starts at the node that failed; the next replay skips records that were delivered.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import (
    add_change_arguments,
    add_limit_argument,
    add_output_arguments,
    add_state_argument,
    none_or_more,
)
from engine.cli.options import DEFAULT_FILE, DlqOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|replay|discard")
    listing = actions.add_parser("list", help="list dead letters, one per line, oldest first")
    _filters(listing, statuses=True)
    add_limit_argument(listing, "show at most N")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")

    showing = actions.add_parser("show", help="show dead letters in detail, with their original records")
    showing.add_argument(
        "names", nargs="+", metavar="DEAD_LETTER", help="an id from `dlq list`, or a record's key"
    )
    showing.add_argument("--json", action="store_true", help="print one JSON object per line")
    _where(showing)

    replaying = actions.add_parser("replay", help="send open dead letters again")
    replaying.add_argument(
        "names",
        nargs="*",
        metavar="DEAD_LETTER",
        help="replay only these: ids from `dlq list`, or record keys",
    )
    _filters(replaying, statuses=False)
    replaying.add_argument(
        "--patch",
        action="append",
        metavar="PATCH",
        help="patch the records first: FIELD=VALUE or FIELD~REGEX~REPLACEMENT; repeatable",
    )
    replaying.add_argument(
        "--limit", type=none_or_more, metavar="N", help="replay at most N, oldest first; 0: all"
    )
    replaying.add_argument(
        "--dry-run", action="store_true", help="print what would be sent, without sending it"
    )
    replaying.add_argument(
        "--force",
        action="store_true",
        help="replay named dead letters that are closed, too: their records replace newer rows",
    )
    add_change_arguments(replaying)
    add_output_arguments(replaying)

    discarding = actions.add_parser("discard", help="discard open dead letters, with a reason")
    discarding.add_argument(
        "names",
        nargs="*",
        metavar="DEAD_LETTER",
        help="discard only these: ids from `dlq list`, or record keys",
    )
    discarding.add_argument("--reason", required=True, metavar="TEXT", help="reason, shown by `dlq show`")
    discarding.add_argument("--dry-run", action="store_true", help="print matches without discarding them")
    _filters(discarding, statuses=False)


def _filters(parser: argparse.ArgumentParser, *, statuses: bool) -> None:
    parser.add_argument("--pipeline", metavar="NAME", help="only this pipeline")
    parser.add_argument("--run", metavar="RUN", help="only this run")
    parser.add_argument("--node", metavar="NAME", help="only this node")
    parser.add_argument("--key", metavar="KEY", help="only the record with this key")
    if statuses:
        parser.add_argument(
            "--status",
            choices=("open", "replayed", "recovered", "discarded", "all"),
            help="only this status; recovered: the record has been delivered since (default: open)",
        )
    _where(parser)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help=f"pipeline file (default: {DEFAULT_FILE})")
    add_state_argument(parser)
    parser.add_argument(
        "--store",
        choices=("all", "engine", "service"),
        help="where to look: the engine's state store, the ingest service, or both (default: all)",
    )


def execute(options: DlqOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop

    if options.action == "replay":
        from engine.cli.dead_letters.replay import replay

        return on_event_loop(lambda: replay(options))
    if options.action == "discard":
        from engine.cli.dead_letters.discard import discard

        return on_event_loop(lambda: discard(options))
    from engine.cli.dead_letters.list import list_letters, show_dead_letters

    return on_event_loop(lambda: (list_letters if options.action == "list" else show_dead_letters)(options))
