"""`dlq list` and `dlq show`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from engine.cli.dead_letters.find import collect, plans_of, query_of
from engine.cli.display.numbers import count
from engine.cli.display.table import aligned, terminal_width
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.options import DlqOptions
from engine.cli.state import run_id_of, store_of
from engine.dead_letters.queue import letter_json
from engine.dead_letters.search import DeadLetterMatch
from engine.errors import ConfigError

MAX_KEY_LENGTH = 40
MIN_KEY_LENGTH = 12
ERROR_WIDTH = 48
GAP = 2
NOT_A_TERMINAL = 160


async def list_letters(options: DlqOptions) -> int:
    """Print the matching dead letters.

    Raises:
        RunNotFoundError: nothing matches, and the run does not exist.
    """
    found = await _found(options, "" if options.status == "all" else options.status)
    shown = found[: options.limit] if options.limit > 0 else found
    if options.json:
        for one in shown:
            sys.stdout.write(json.dumps(as_json(one), ensure_ascii=False) + "\n")
    elif shown:
        lines = _table(shown, terminal_width() or NOT_A_TERMINAL)
        sys.stdout.write(printable("\n".join(lines) + "\n"))
    if len(shown) < len(found):
        sys.stderr.write(f"showing {count(len(shown))} of {count(len(found))}; use --limit 0 to show all\n")
    elif not found:
        sys.stderr.write(
            "no dead letters\n" if options.status == "all" else f"no {options.status} dead letters\n"
        )
    return ExitCode.COMPLETED


async def show_dead_letters(options: DlqOptions) -> int:
    """Print each dead letter in detail.

    Raises:
        ConfigError: a name matches no dead letter.
    """
    found = named(await _found(options, ""), options.names)
    if options.json:
        for one in found:
            sys.stdout.write(json.dumps(as_json(one), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(printable("\n".join("\n".join(_page(one)) + "\n" for one in found)))
    return ExitCode.COMPLETED


def named(found: list[DeadLetterMatch], names: Sequence[str]) -> list[DeadLetterMatch]:
    """Check that every name matches a dead letter.

    Raises:
        ConfigError: a name does not; the message has the first one.
    """
    for name in names:
        if not any(one.is_called(name) for one in found):
            raise ConfigError(f"no dead letter {name!r}: `dlq list --status all` lists them all")
    return found


async def _found(options: DlqOptions, status: str) -> list[DeadLetterMatch]:
    plans = plans_of(options, needed=False)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(options))
        query = query_of(options, status)
        query = replace(query, run_id=await run_id_of(store, query.run_id))
        found = await collect(stack, store, plans, options, query)
        if query.run_id and not found and options.store != "service":
            await store.get_run(query.run_id)  # the run has none left, or does not exist
        return found


def _table(found: list[DeadLetterMatch], width: int) -> list[str]:
    rows = [["id", "failed at", "store", "pipeline/node", "key", "error"]]
    for one in found:
        # `2026-01-31 12:00:00`, in UTC
        time = one.failed_at[:19].replace("T", " ")
        rows.append(
            [one.id, time, one.store, one.place, printable(one.key), printable(" ".join(one.error.split()))]
        )
    if any(one.status != "open" for one in found):
        for row, status in zip(rows, ["status", *(one.status for one in found)], strict=True):
            row.insert(2, status)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    # the error matters most, so a long key is shortened first
    room = width - sum(widths[:-1]) - GAP * len(widths) - ERROR_WIDTH
    widths[-1] = min(widths[-1], max(MIN_KEY_LENGTH, min(MAX_KEY_LENGTH, room)))
    for row in rows:
        row[-2] = _short(row[-2], widths[-1])
    lines = aligned(rows)
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def _short(key: str, length: int) -> str:
    """Return the end of a long key, which distinguishes it from the others."""
    return key if len(key) <= length else "…" + key[1 - length :]


def _page(one: DeadLetterMatch) -> Iterator[str]:
    yield f"dead letter {one.id}  ({one.store}, {one.status})"
    if one.letter is not None:
        letter = one.letter
        yield f"  pipeline    {letter.pipeline}"
        yield f"  run         {letter.run_id}"
        yield f"  node        {letter.node}" + (f" ({letter.stage})" if letter.stage != letter.node else "")
        yield f"  key         {letter.key}"
        yield f"  error       {letter.error_type}: {letter.error_message}"
        yield f"  attempts    {letter.attempts}"
        yield f"  first       {letter.first_failed_at}"
        yield f"  last        {letter.last_failed_at}"
        if letter.reference:
            yield f"  reference   {letter.reference} (the record was too large to store)"
    if one.copy is not None:
        copy = one.copy
        yield f"  in service  {copy.dead_letter_id} ({copy.status}, model {copy.model}, at its {copy.source})"
        if one.letter is None:
            yield f"  record id   {copy.record_id or '(none)'}"
            yield f"  error       {copy.error_type}: {copy.error_message}"
            yield f"  failed at   {copy.failed_at}"
    reason = (one.letter.reason if one.letter else "") or (one.copy.reason if one.copy else "")
    if reason:
        yield f"  discarded   {reason}"
    if one.record is not None:
        yield "  record"
        yield from (
            "    " + line for line in json.dumps(one.record, indent=2, ensure_ascii=False).split("\n")
        )


def as_json(one: DeadLetterMatch) -> dict[str, object]:
    """Return a dead letter in the form of `--json`."""
    return {
        "id": one.id,
        "store": one.store,
        "status": one.status,
        "failed_at": one.failed_at,
        "key": one.key,
        "record": one.record,
        "engine": letter_json(one.letter) if one.letter else None,
        "service": one.copy.model_dump() if one.copy else None,
    }
