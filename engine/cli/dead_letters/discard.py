"""`dlq discard`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Literal

from engine.cli.dead_letters.find import collect, plans_of, query_of
from engine.cli.dead_letters.list import named
from engine.cli.display.numbers import counted
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.options import DlqOptions
from engine.cli.state import store_of
from engine.dead_letters.search import DeadLetterMatch
from engine.errors import ConfigError

IDS_A_REQUEST = 500


async def discard(options: DlqOptions) -> int:
    """Discard open dead letters, in the state store and in the services that have a copy.

    Raises:
        ConfigError: neither a name nor a filter is given, the reason is empty, or a name matches nothing.
        ServiceError: a service can no longer be reached.
    """
    if not options.reason.strip():
        raise ConfigError("--reason is empty: say why these records are not needed")
    if not (options.names or options.pipeline or options.run or options.node or options.key):
        raise ConfigError("name dead letters, or choose them with --pipeline, --run, --node or --key")
    plans = plans_of(options, needed=False)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(options))
        found = await collect(stack, store, plans, options, query_of(options, "open"))
        if options.names and not found:
            named(await collect(stack, store, plans, options, query_of(options, "")), options.names)
        if options.dry_run:
            for one in found:
                sys.stdout.write(printable(f"{one.id}  {one.place}  {one.key}\n"))
            return ExitCode.COMPLETED
        letters = [one.letter for one in found if one.letter is not None]
        await store.mark_dead_letters(letters, "discarded", options.reason)
        await close_copies(found, "discard", options.reason)
    sys.stdout.write(f"{counted(len(found), 'dead letter')} discarded\n")
    return ExitCode.COMPLETED


async def close_copies(
    found: Iterable[DeadLetterMatch], status: Literal["discard", "recovered"], reason: str
) -> None:
    """Close the services' copies of these dead letters. Raises ServiceError."""
    found = list(found)
    for service in {id(one.service): one.service for one in found if one.service is not None}.values():
        ids = [one.copy.dead_letter_id for one in found if one.copy is not None and one.service is service]
        for start in range(0, len(ids), IDS_A_REQUEST):
            await service.close(ids[start : start + IDS_A_REQUEST], status, reason)
