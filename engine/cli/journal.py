"""The journal: model answers that were paid for, so that they are not paid for again.

  python -m engine journal list --pipeline unstructured_data
  python -m engine journal show memos/memo_7.txt
  python -m engine journal purge --older-than 30d

The list never shows what was asked or answered; `show` prints answers, which hold what the documents hold. A
question that was purged is paid for when it comes again.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_state_argument

SUMMARY = "list, show and purge the model answers that were paid for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|purge")
    listing = actions.add_parser("list", help="a line each, newest last, and what they have cost")
    _filters(listing)
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="the newest N; 0 means all (50)")
    listing.add_argument("--json", action="store_true", help="print one JSON object a line")

    showing = actions.add_parser("show", help="print answers as the model gave them, as JSON lines")
    showing.add_argument(
        "name", metavar="RECORD", help="the key of a record, or the beginning of an answer's key"
    )
    _filters(showing)

    purging = actions.add_parser("purge", help="delete answers")
    _filters(purging)
    purging.add_argument("--all", action="store_true", help="every one of them")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", default="", metavar="NAME", help="paid for by this pipeline")
    parser.add_argument("--run", default="", metavar="RUN", help="paid for by this run")
    parser.add_argument("--model", default="", metavar="NAME", help="of this model")
    parser.add_argument("--older-than", default="", metavar="AGE", help="older than that, as in 12h or 30d")
    add_state_argument(parser)


def execute(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.journal import list_entries, purge_entries, show_entries

    verbs = {"list": list_entries, "show": show_entries, "purge": purge_entries}
    return on_event_loop(lambda: verbs[options.action](options))
