"""Find the runs that `--resume` resumes, and the changes since they started."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from engine.config import FileConfig
from engine.contract.clock import Clock
from engine.contract.types import JsonValue
from engine.dead_letters.replay import REPLAY_GROUP
from engine.errors import ConfigError, LeaseHeldError, RunNotFoundError
from engine.execution.lease import living
from engine.plan.identity import FOLLOWERS, difference
from engine.plan.model import Plan
from engine.state.records import Follower, RunRecord, RunStatus
from engine.state.store import StateStore


async def invocation_of(store: StateStore, wanted: str) -> list[RunRecord]:
    """Return all runs of an invocation, oldest first.

    Args:
        wanted: one of its runs, or the group; "" means the latest invocation.

    Raises:
        RunNotFoundError: there is no such run, or no run at all.
    """
    if wanted:
        return await store.list_runs(group_id=wanted) or await store.list_runs(
            group_id=(await store.get_run(wanted)).group_id
        )
    runs = [run for run in await store.list_runs() if not run.group_id.startswith(REPLAY_GROUP)]
    if not runs:
        raise RunNotFoundError("no run to resume yet")
    return [run for run in runs if run.group_id == runs[-1].group_id]


async def not_begun(
    store: StateStore,
    file: FileConfig,
    group_id: str,
    resumes: Mapping[str, RunRecord],
    only: Collection[str] = (),
) -> list[Follower]:
    """Return each pipeline that has to follow a run of a group and has not started, once.

    Args:
        resumes: runs that are resumed, whose new end determines what follows.
        only: pipelines to look for; empty means all.
    """
    resumed = {run.run_id for run in resumes.values()}
    found = {
        one.pipeline: one
        for one in await store.followers(group_id)
        if one.pipeline in file.pipelines
        and one.pipeline not in resumes
        and one.run_id not in resumed
        and (not only or one.pipeline in only)
    }
    return list(found.values())


def params_from_before(
    file: FileConfig, runs: Sequence[RunRecord], resumes: Mapping[str, RunRecord]
) -> dict[str, dict[str, JsonValue]]:
    """Return the parameters to resume with, by pipeline: of the runs themselves and of their followers.

    Followers start from the beginning, so parameters that they no longer have are left out.
    """
    params: dict[str, dict[str, JsonValue]] = {}
    for run in runs:
        followers = run.operational_doc.get(FOLLOWERS) if isinstance(run.operational_doc, dict) else None
        for name, given in followers.items() if isinstance(followers, dict) else ():
            if name in file.pipelines and isinstance(given, dict):
                declared = file.pipelines[name].parameters
                params[name] = {one: value for one, value in given.items() if one in declared}
    return params | {name: dict(record.params) for name, record in resumes.items()}


async def unfinished(store: StateStore, wanted: str, only: Collection[str]) -> dict[str, RunRecord]:
    """Return the runs to resume, by pipeline; empty if all have completed.

    Args:
        wanted: a run or a group of runs; "" means the latest invocation.
        only: pipelines to resume; empty means all.

    Raises:
        RunNotFoundError: there is no such run, or no run at all.
        ConfigError: the run has completed, or is a replay.
    """
    runs = await invocation_of(store, wanted)
    if runs[0].group_id.startswith(REPLAY_GROUP):
        raise ConfigError("--resume: that run was a replay of dead letters; use `dlq replay` again instead")
    named = [run for run in runs if run.run_id == wanted]
    if named:
        runs = named
        if not runs[0].status.resumable:
            raise ConfigError(f"--resume: run {wanted!r} has completed: nothing is left to resume")
    return {run.pipeline: run for run in runs if run.status.resumable and (not only or run.pipeline in only)}


async def refuse_living(store: StateStore, clock: Clock, run_ids: Iterable[str]) -> None:
    """Raise an error if another process works on one of these runs.

    Raises:
        LeaseHeldError: another process works on one of these runs.
    """
    for run_id in run_ids:
        lease = await living(store, clock, run_id)
        if lease is not None:
            raise LeaseHeldError(run_id, lease.holder, lease.expires_at)


def end_of(follower: Follower, runs: Sequence[RunRecord]) -> str:
    """Describe the end after which a pipeline starts."""
    ends = {RunStatus.COMPLETED: "has completed", RunStatus.INTERRUPTED: "was drained"}
    for run in runs:
        if run.run_id == follower.run_id:
            return f"{run.pipeline} {ends.get(run.status, 'has failed')}"
    return f"run {follower.run_id} has ended"  # and was deleted meanwhile


def announce(
    runs: Sequence[RunRecord],
    resumes: Mapping[str, RunRecord],
    late: Sequence[Follower],
    plans: Mapping[str, Plan],
    say: Callable[[str], None],
) -> None:
    """Print what is resumed and what may follow.

    Includes changed settings, and followers that start only now (`late`).
    """
    for name, record in resumes.items():
        # no process works on it: see `refuse_living`
        before = "killed" if record.status is RunStatus.RUNNING else str(record.status)
        attempts = f"{before} in attempt {record.attempt}, now attempt {record.attempt + 1}"
        say(f"{name}: resuming run {record.run_id} ({attempts})")
        for line in difference(record.operational_doc, plans[name].operational_doc):
            say(f"  changed: {line}")
    for name in plans:
        if name not in resumes and all(name != one.pipeline for one in late):
            say(f"{name}: may follow with its original parameters; --set applies as given now")
    for one in late:
        say(
            f"{one.pipeline}: starting now because {end_of(one, runs)}, with its original parameters; "
            "--set applies as given now"
        )
