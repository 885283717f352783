"""`bookmarks list` and `bookmarks reset`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from engine.cli.display.numbers import count, counted
from engine.cli.display.table import aligned
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.local.resume import refuse_living
from engine.cli.options import BookmarksOptions
from engine.cli.state import store_of
from engine.contract.clock import SystemClock
from engine.errors import ConfigError
from engine.state import BookmarkFilter, BookmarkRecord, BookmarkScope, RunStatus, StateStore


async def list_bookmarks(options: BookmarksOptions) -> int:
    """Print counts of bookmarks, or each of them."""
    where = BookmarkFilter(options.pipeline, options.node, key=options.key)
    limit = options.limit if options.limit > 0 else None
    async with store_of(options) as store:
        scopes = await store.bookmark_scopes(where)
        each = await store.list_bookmarks(replace(where, limit=limit)) if options.keys else []
    total = sum(scope.count for scope in scopes)
    if options.json:
        for one in each or scopes:
            sys.stdout.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
    else:
        lines = _each(each) if options.keys else _scopes(scopes)
        sys.stdout.writelines(printable(f"{line}\n") for line in lines)
    more = (
        f" ({count(len(each))} shown; use --limit 0 to show all)"
        if options.keys and len(each) < total
        else ""
    )
    sys.stderr.write(f"{counted(total, 'bookmark')}{more}\n" if total else "no bookmark matches\n")
    return ExitCode.COMPLETED


async def reset_bookmarks(options: BookmarksOptions) -> int:
    """Delete the matching entries.

    Raises:
        ConfigError: nothing matches.
        LeaseHeldError: a run of the pipeline is in progress and would set them again.
    """
    where = BookmarkFilter(options.pipeline, options.node, key=options.key)
    async with store_of(options) as store:
        runs = await store.list_runs(pipeline=options.pipeline)
        going = [run.run_id for run in runs if run.status is RunStatus.RUNNING]
        await refuse_living(store, SystemClock(), going)
        number = await store.delete_bookmarks(where)
        if not number:
            raise ConfigError(await _nothing(store, options))
    sys.stdout.write(f"{counted(number, 'bookmark')} deleted; the next run will re-read those inputs\n")
    return ExitCode.COMPLETED


async def _nothing(store: StateStore, options: BookmarksOptions) -> str:
    of_pipeline = await store.bookmark_scopes(BookmarkFilter(options.pipeline))
    if of_pipeline:
        nodes = ", ".join(sorted({f"`{one.node}`" for one in of_pipeline}))
        return (
            f"bookmarks reset: no bookmark of pipeline `{options.pipeline}` matches; it has bookmarks of "
            f"{nodes} (see `bookmarks list --pipeline {options.pipeline} --keys`)"
        )
    names = sorted({f"`{one.pipeline}`" for one in await store.bookmark_scopes(BookmarkFilter())})
    there = f"there are bookmarks of {', '.join(names)}" if names else "there are no bookmarks yet"
    return f"bookmarks reset: no bookmarks of a pipeline `{options.pipeline}`; {there}"


def _scopes(scopes: Sequence[BookmarkScope]) -> list[str]:
    rows = [(f"{one.pipeline}/{one.node}", one.scope, count(one.count)) for one in scopes]
    return aligned([("pipeline/node", "place", "bookmarks"), *rows], right={2}) if rows else []


def _each(bookmarks: Sequence[BookmarkRecord]) -> list[str]:
    rows = [
        (f"{one.pipeline}/{one.node}", one.scope, one.key, json.dumps(one.value), one.run_id)
        for one in bookmarks
    ]
    return aligned([("pipeline/node", "place", "key", "delivered", "by run"), *rows]) if rows else []
