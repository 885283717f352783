"""Which runs `--resume` goes on with, and what has changed since they were begun."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from engine.clock import Clock
from engine.errors import ConfigError, LeaseHeldError, RunNotFoundError
from engine.lease import living
from engine.plan import Plan, difference
from engine.replay import REPLAY_GROUP
from engine.state.protocol import RunRecord, StateStore

__all__ = ["announce", "refuse_living", "unfinished"]


async def unfinished(store: StateStore, wanted: str, only: Collection[str]) -> dict[str, RunRecord]:
    """The runs to go on with, by pipeline; empty when all have completed.

    Args:
        wanted: a run or a group of runs; "" means the latest invocation.
        only: pipelines to go on with; empty means all.

    Raises:
        RunNotFoundError: there is no such run, or none at all.
        ConfigError: the run has completed, or is a replay.
    """
    if not wanted:
        runs = [run for run in await store.list_runs() if not run.group_id.startswith(REPLAY_GROUP)]
        if not runs:
            raise RunNotFoundError("there is no run to resume in this state directory")
        group = runs[-1].group_id
        runs = [run for run in runs if run.group_id == group]
    else:
        runs = await store.list_runs(group_id=wanted) or [await store.get_run(wanted)]
        if runs[0].group_id.startswith(REPLAY_GROUP):
            raise ConfigError("--resume: that was a replay of dead letters; `dlq replay` begins it anew")
        if runs[0].run_id == wanted and not runs[0].status.resumable:
            raise ConfigError(f"--resume: run {wanted!r} has completed, there is nothing left of it")
    return {run.pipeline: run for run in runs if run.status.resumable and (not only or run.pipeline in only)}


async def refuse_living(store: StateStore, clock: Clock, run_ids: Iterable[str]) -> None:
    """Find out before anything is started for them.

    Raises:
        LeaseHeldError: another process works on one of these runs.
    """
    for run_id in run_ids:
        lease = await living(store, clock, run_id)
        if lease is not None:
            raise LeaseHeldError(run_id, lease.holder, lease.expires_at)


def announce(resumes: Mapping[str, RunRecord], plans: Mapping[str, Plan], say: Callable[[str], None]) -> None:
    """Say what is gone on with, and which settings are others than before."""
    for name, record in resumes.items():
        say(f"{name}: going on with run {record.run_id} ({record.status}, attempt {record.attempt})")
        for line in difference(record.operational_doc, plans[name].operational_doc):
            say(f"  changed: {line}")
