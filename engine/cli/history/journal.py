"""`journal list`, `journal show` and `journal purge`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

from engine.cli.display.ages import age, older_than
from engine.cli.display.numbers import count, counted
from engine.cli.display.table import aligned
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.options import JournalOptions
from engine.cli.state import store_of
from engine.contract.clock import SystemClock
from engine.contract.journal import ANSWER, JournalEntry
from engine.errors import ConfigError
from engine.state import JournalFilter


async def list_entries(options: JournalOptions) -> int:
    """Print the entries and their cost.

    Raises:
        ConfigError: the age is none.
    """
    now = SystemClock().now()
    async with store_of(options) as store:
        found = await store.list_journal(_filter(options, now))
    shown = found[-options.limit :] if options.limit > 0 else found
    if options.json:
        for entry in shown:
            sys.stdout.write(json.dumps(_as_json(entry), ensure_ascii=False) + "\n")
    elif shown:
        sys.stdout.write(printable("\n".join(_table(shown, now)) + "\n"))
    sys.stderr.write(_total(found, len(shown)))
    return ExitCode.COMPLETED


async def show_entries(options: JournalOptions) -> int:
    """Print the answers for a record, or those with a key prefix, with the model's text.

    Raises:
        ConfigError: the age is not valid, or there is no such answer.
    """
    if not options.name:
        raise ConfigError("journal show: name a record, or the beginning of an answer's key")
    document, _, number = options.name.rpartition("/")  # of a record that is one of many
    records = {options.name, document} if document and number.isdigit() else {options.name}
    async with store_of(options) as store:
        listed = await store.list_journal(_filter(options, SystemClock().now()))
        wanted = [one.key for one in listed if one.record in records or one.key.startswith(options.name)]
        found = await store.get_journal(wanted)
    if not wanted:
        raise ConfigError(
            f"journal show: no answer for the record {options.name!r}, and no key with this prefix; "
            "`journal list` shows the records' keys"
        )
    if options.trace:
        return _show_traces([found[key] for key in wanted], options.name)
    for key in wanted:
        shown = {**_as_json(found[key]), "answer": found[key].answer}
        sys.stdout.write(json.dumps(shown, ensure_ascii=False) + "\n")
    return ExitCode.COMPLETED


def _show_traces(entries: Sequence[JournalEntry], name: str) -> int:
    """Print prompts and replies. Raises ConfigError when none was kept."""
    traced = [one for one in entries if one.prompt]
    if not traced:
        raise ConfigError(
            f"journal show: no trace of {name!r} was kept; set `trace: true` at the node, and purge its "
            "answer to have it asked again"
        )
    for one in traced:
        place = f"{one.pipeline}/{one.node}, {one.run_id}, {one.created_at}"
        head = f"# {one.record or one.key[:12]}: {one.model}, {place}"
        sys.stdout.write(printable(f"{head}\n\n{one.prompt}\n\n[reply]\n{one.reply}\n\n"))
    return ExitCode.COMPLETED


async def purge_entries(options: JournalOptions) -> int:
    """Delete the matching entries.

    Raises:
        ConfigError: the age is not valid, or nothing selects the answers to delete.
    """
    where = _filter(options, SystemClock().now())
    if options.all and where != JournalFilter():
        raise ConfigError("journal purge: give either --all or filters, not both")
    if not options.all and where == JournalFilter():
        raise ConfigError(
            "journal purge: choose answers with --older-than 30d, --pipeline, --run or --model, or give --all"
        )
    async with store_of(options) as store:
        number = await store.purge_journal(where)
    sys.stdout.write(f"{counted(number, 'answer')} deleted\n")
    return ExitCode.COMPLETED


def _filter(options: JournalOptions, now: datetime) -> JournalFilter:
    before = older_than(options.older_than, now) if options.older_than else ""
    return JournalFilter(options.run, options.pipeline, options.model, before)


def _table(entries: Sequence[JournalEntry], now: datetime) -> list[str]:
    rows = [("age", "pipeline/node", "model", "answer", "tokens in", "out", "USD", "record")]
    rows += [
        (
            age((now - datetime.fromisoformat(entry.created_at)).total_seconds()),
            f"{entry.pipeline}/{entry.node}",
            entry.model,
            "yes" if entry.outcome == ANSWER else entry.outcome,
            count(entry.tokens_in),
            count(entry.tokens_out),
            f"{entry.cost_usd:.6f}",
            printable(entry.record or entry.key[:12]),
        )
        for entry in entries
    ]
    return aligned(rows, right={0, 4, 5, 6})


def _total(found: Sequence[JournalEntry], shown: int) -> str:
    if not found:
        return "no answer in the journal matches\n"
    tokens_in, tokens_out = sum(one.tokens_in for one in found), sum(one.tokens_out for one in found)
    usd = sum(one.cost_usd for one in found)
    total = f"{counted(len(found), 'answer')}: {count(tokens_in)} tokens in, {count(tokens_out)} out"
    more = "" if shown == len(found) else f" ({count(shown)} shown; use --limit 0 to show all)"
    return f"{total}, {usd:.4f} USD{more}\n"


def _as_json(entry: JournalEntry) -> dict[str, object]:
    texts = ("answer", "prompt", "reply")
    return {name: getattr(entry, name) for name in JournalEntry.__dataclass_fields__ if name not in texts}
