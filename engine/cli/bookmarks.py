"""List and reset bookmarks, which `mode: changed` sources and `deduplicate` keep from earlier runs.

  python -m engine bookmarks list
  python -m engine bookmarks list --pipeline memos --keys
  python -m engine bookmarks reset memos --key memos/2025/letter.txt

The next run re-reads, or delivers again, what was reset.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.options import BookmarksOptions, StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|reset")
    listing = actions.add_parser("list", help="count bookmarks by pipeline, node and place")
    add_options(listing, BookmarksOptions, "pipeline", "node", "key")
    add_options(listing, StateOptions)
    add_options(listing, BookmarksOptions, "keys", "limit", "json")

    resetting = actions.add_parser(
        "reset", help="delete bookmarks, so that the next run re-reads those inputs"
    )
    resetting.add_argument("pipeline", metavar="PIPELINE", help="name of the pipeline, or an alias")
    add_options(resetting, BookmarksOptions, "node", "key")
    add_options(resetting, StateOptions)


def execute(options: BookmarksOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.bookmarks import list_bookmarks, reset_bookmarks

    actions = {"list": list_bookmarks, "reset": reset_bookmarks}
    return on_event_loop(lambda: actions[options.action](options))
