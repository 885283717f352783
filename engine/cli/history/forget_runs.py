"""`runs forget` and `runs prune`."""

from __future__ import annotations

import sys

from engine.cli.display.ages import older_than
from engine.cli.display.numbers import counted
from engine.cli.exit_codes import ExitCode
from engine.cli.local.resume import refuse_living
from engine.cli.options import RunsOptions
from engine.cli.state import run_id_of, store_of
from engine.contract.clock import SystemClock
from engine.errors import ConfigError, LeaseHeldError
from engine.execution.lease import acquire
from engine.state import DeadLetterFilter, RunRecord, RunStatus, StateStore


async def forget_run(options: RunsOptions) -> int:
    """Delete one run after printing what goes with it.

    Raises:
        RunNotFoundError: no run has that id.
        LeaseHeldError: a process is working on it.
        ConfigError: it has open dead letters, and `--yes` was not given.
    """
    async with store_of(options) as store:
        run = await store.get_run(await run_id_of(store, options.run))
        await refuse_living(store, SystemClock(), [run.run_id])
        _, splits = await store.count_splits(run.run_id)
        letters = await store.count_dead_letters(DeadLetterFilter(run_id=run.run_id))
        still_open = await _open_letters(store, run)
        if still_open and not options.yes:
            raise ConfigError(
                f"runs forget: {counted(still_open, 'dead letter')} of run {run.run_id!r} would be lost "
                "without a replay (see `dlq list`): replay them first, or add --yes"
            )
        unfinished = "; it is unfinished and can no longer be resumed" if run.status.resumable else ""
        sys.stdout.write(
            f"forgetting run {run.run_id} with {counted(splits, 'split')} and"
            f" {counted(letters, 'dead letter')} ({still_open} open){unfinished}\n"
        )
        sys.stdout.flush()
        await _forget(store, run)
    return ExitCode.COMPLETED


async def prune_runs(options: RunsOptions) -> int:
    """Delete old completed runs (with `failed` also unfinished ones) without open dead letters.

    Raises:
        ConfigError: the age is not valid.
    """
    before = older_than(options.older_than, SystemClock().now())
    forgotten = kept = 0
    unfinished = {RunStatus.FAILED, RunStatus.OUTAGE, RunStatus.INTERRUPTED}
    prunable = {RunStatus.COMPLETED, *(unfinished if options.failed else ())}
    async with store_of(options) as store:
        for run in await store.list_runs():
            if run.status not in prunable or not run.ended_at or run.ended_at >= before:
                continue
            if await _open_letters(store, run):
                kept += 1
                continue
            try:
                await _forget(store, run)
            except LeaseHeldError:  # another process has begun to resume it
                continue
            forgotten += 1
    sys.stdout.write(f"{counted(forgotten, 'run')} forgotten\n")
    if kept:
        sys.stderr.write(f"{counted(kept, 'run')} kept because of open dead letters (see `dlq list`)\n")
    return ExitCode.COMPLETED


async def _forget(store: StateStore, run: RunRecord) -> None:
    async with acquire(store, SystemClock(), run.run_id) as lease:  # no other process can resume it meanwhile
        await store.delete_run(run.run_id, epoch=lease.epoch)


async def _open_letters(store: StateStore, run: RunRecord) -> int:
    return await store.count_dead_letters(DeadLetterFilter(run_id=run.run_id, status="open"))
