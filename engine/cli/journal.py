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

from engine.cli.arguments import add_limit_argument, add_state_argument
from engine.cli.options import JournalOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|purge")
    listing = actions.add_parser("list", help="list answers, one per line, newest last, with their cost")
    _filters(listing)
    add_limit_argument(listing)
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")

    showing = actions.add_parser("show", help="print answers as the model wrote them, as JSON lines")
    showing.add_argument("name", metavar="RECORD", help="a record's key, or a prefix of an answer's key")
    showing.add_argument(
        "--trace", action="store_true", help="print the prompt and the raw reply of each call, as text"
    )
    _filters(showing)

    purging = actions.add_parser("purge", help="delete answers")
    _filters(purging)
    purging.add_argument("--all", action="store_true", help="delete all answers")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", metavar="NAME", help="only answers that this pipeline paid for")
    parser.add_argument("--run", metavar="RUN", help="only answers that this run paid for")
    parser.add_argument("--model", metavar="NAME", help="only answers of this model")
    parser.add_argument("--older-than", metavar="AGE", help="only answers older than this, e.g. 12h or 30d")
    add_state_argument(parser)


def execute(options: JournalOptions) -> int:
    """Execute the chosen action."""
    from engine.cli.event_loop import on_event_loop
    from engine.cli.history.journal import list_entries, purge_entries, show_entries

    verbs = {"list": list_entries, "show": show_entries, "purge": purge_entries}
    return on_event_loop(lambda: verbs[options.action](options))
