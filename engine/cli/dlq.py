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

from engine.cli.arguments import add_options
from engine.cli.options import DlqOptions, OutputOptions, PlanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|replay|discard")
    listing = actions.add_parser("list", help="list dead letters, one per line, oldest first")
    _add_filters(listing, "status")
    add_options(listing, DlqOptions, limit="show at most N; 0 shows all (default: 50)")
    listing.set_defaults(limit=50)
    add_options(listing, DlqOptions, "json")

    showing = actions.add_parser("show", help="show dead letters in detail, with their original records")
    showing.add_argument(
        "names", nargs="+", metavar="DEAD_LETTER", help="an id from `dlq list`, or a record's key"
    )
    add_options(showing, DlqOptions, "json", "file", "state_dir", "state", "store")

    replaying = actions.add_parser("replay", help="send open dead letters again")
    add_options(replaying, DlqOptions, names="replay only these: ids from `dlq list`, or record keys")
    _add_filters(replaying)
    add_options(replaying, DlqOptions, "patch", "limit", "dry_run", "force")
    add_options(replaying, PlanOptions, "param", "assignments")
    add_options(replaying, OutputOptions)

    discarding = actions.add_parser("discard", help="discard open dead letters, with a reason")
    add_options(discarding, DlqOptions, names="discard only these: ids from `dlq list`, or record keys")
    add_options(discarding, DlqOptions, "reason", dry_run="print matches without discarding them")
    _add_filters(discarding)


def _add_filters(parser: argparse.ArgumentParser, *more: str) -> None:
    add_options(parser, DlqOptions, "pipeline", "run", "node", "key", *more)
    add_options(parser, DlqOptions, "file", "state_dir", "state", "store")


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
