"""List, show and purge the journal of paid model answers, which avoids paying for them twice.

  python -m engine journal list --pipeline unstructured_data
  python -m engine journal show memos/memo_7.txt
  python -m engine journal show memos/memo_7.txt --trace
  python -m engine journal purge --older-than 30d

The list never shows questions or answers. `show` prints answers, which may contain text of the documents, and
with --trace the prompts and raw replies that a node with `trace: true` keeps. After a purge, the same
question costs money again.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.options import JournalOptions, StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|purge")
    listing = actions.add_parser("list", help="list answers, one per line, newest last, with their cost")
    _add_filters(listing)
    add_options(listing, JournalOptions, "limit", "json")

    showing = actions.add_parser("show", help="print answers as the model wrote them, as JSON lines")
    add_options(showing, JournalOptions, "name", "trace")
    _add_filters(showing)

    purging = actions.add_parser("purge", help="delete answers")
    _add_filters(purging)
    add_options(purging, JournalOptions, "all")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    add_options(parser, JournalOptions, "pipeline", "run", "model", "older_than")
    add_options(parser, StateOptions)


def execute(options: JournalOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.journal import list_entries, purge_entries, show_entries

    verbs = {"list": list_entries, "show": show_entries, "purge": purge_entries}
    return on_event_loop(lambda: verbs[options.action](options))
