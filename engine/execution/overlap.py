"""Concurrent runs of one pipeline: refuse, wait, skip or allow.

Two runs with the same bookmarks would deliver the same records. A run first takes its own lease and then
looks for other active runs, so of two that begin together at least one sees the other; if both do, the older
one continues.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from engine.contract.clock import Clock
from engine.dead_letters.replay import REPLAY_GROUP
from engine.errors import RunMismatchError, RunNotFoundError, RunOverlapError
from engine.execution.lease import HeldLease, acquire, living
from engine.plan.identity import difference
from engine.plan.model import Plan
from engine.state.records import Follower, RunRecord, RunStatus
from engine.state.store import StateStore

POLL_EVERY = 0.5
GIVE_WAY_WITHIN = 5.0  # seconds within which a younger run that sees this one has given way

Begin = Callable[[], Awaitable[RunRecord]]


def policy_of(plan: Plan) -> str:
    """Return the policy for another run of the pipeline in progress: refuse, wait, skip or allow."""
    if plan.settings.if_running:
        return plan.settings.if_running
    remembers = any(node.spec.keeps_bookmarks(node.params) for node in plan.nodes)
    return "refuse" if remembers else "allow"


@dataclass(frozen=True, slots=True)
class _Other:
    record: RunRecord
    holder: str


@dataclass(slots=True)
class Entry:
    """A run that is about to begin or resume.

    Args:
        begin: enters a new run into the store.
        resume: the run to resume instead.
        chunk: the part of it that this process works on; overlaps are then not checked.
        given_up: returns true when waiting for others has become pointless.
        under_way: returns the process that works on a run without a lease; "" for none.
        follows: the stored follower that a new run replaces.
    """

    store: StateStore
    clock: Clock
    plan: Plan
    begin: Begin
    resume: RunRecord | None = None
    chunk: str = ""
    given_up: Callable[[], bool] = lambda: False
    under_way: Callable[[RunRecord], Awaitable[str]] | None = None
    follows: Follower | None = None

    @property
    def policy(self) -> str:
        """Return what to do about other runs of the pipeline."""
        replays = self.resume is not None and self.resume.group_id.startswith(REPLAY_GROUP)
        return "allow" if self.chunk or replays else policy_of(self.plan)

    async def give_way(self) -> None:
        """Wait for other runs, or refuse to begin.

        Raises:
            RunOverlapError: another run is in progress.
        """
        while others := await self.others():
            if self.policy != "wait":
                raise self.refused(others[0])
            if self.given_up():
                raise self.refused(others[0], given_up=True)
            await anyio.sleep(POLL_EVERY)

    async def confirm(self, record: RunRecord) -> None:
        """Check again, now that others can see this run.

        Raises:
            RunOverlapError: another run is in progress.
        """
        until = anyio.current_time() + GIVE_WAY_WITHIN
        while others := await self.others(record.run_id):
            older = [one for one in others if _age(one.record) < _age(record)]
            if older or anyio.current_time() >= until:
                raise self.refused((older or others)[0])
            await anyio.sleep(POLL_EVERY / 5)

    async def others(self, own: str = "") -> list[_Other]:
        """Return the other active runs of the pipeline, if the policy checks for them."""
        own = own or (self.resume.run_id if self.resume is not None else "")
        if self.policy == "allow":
            return []
        found: list[_Other] = []
        pipeline = self.plan.pipeline
        for record in await self.store.list_runs(pipeline=pipeline, statuses=[RunStatus.RUNNING]):
            if record.run_id == own or record.group_id.startswith(REPLAY_GROUP):
                continue
            try:
                lease = await living(self.store, self.clock, record.run_id)
            except RunNotFoundError:  # it has given way and ended
                continue
            holder = lease.holder if lease is not None else ""
            if not holder and self.under_way is not None:
                holder = await self.under_way(record)
            if holder:
                found.append(_Other(record, holder))
        return found

    def refused(self, other: _Other, *, given_up: bool = False) -> RunOverlapError:
        """Return the error for an overlap."""
        return RunOverlapError(
            self.plan.pipeline,
            other.record.run_id,
            other.holder,
            skipped=self.policy == "skip",
            given_up=given_up,
        )


@asynccontextmanager
async def entered(entry: Entry) -> AsyncGenerator[tuple[RunRecord, HeldLease], None]:
    """Provide the run and its lease for the block, once no other run of its pipeline is in the way.

    Raises:
        RunOverlapError: another run of the pipeline is in progress, and the policy is not to wait.
        LeaseHeldError: another process works on this run.
        RunMismatchError: the resumed run was started with a different plan.
    """
    if entry.resume is not None:
        _check_identity(entry.resume, entry.plan)
    while True:
        await entry.give_way()
        record = entry.resume or await entry.begin()
        async with acquire(entry.store, entry.clock, record.run_id, entry.chunk) as lease:
            try:
                await _seen(entry, record, lease, RunStatus.RUNNING)
                await entry.confirm(record)
            except RunOverlapError:
                if entry.resume is None:  # it has done nothing yet
                    await entry.store.delete_run(record.run_id, epoch=lease.epoch, followed=entry.follows)
                else:
                    await _seen(entry, record, lease, record.status)
                if entry.policy != "wait":
                    raise
            else:
                yield record, lease
                return


async def _seen(entry: Entry, record: RunRecord, lease: HeldLease, status: RunStatus) -> None:
    """Mark a resumed run as running for others, or restore its status."""
    if entry.resume is not None and not entry.chunk and entry.policy != "allow":
        ended, error = ("", "") if status is RunStatus.RUNNING else (record.ended_at, record.error)
        await entry.store.update_run(
            record.run_id, status=status, ended_at=ended, error=error, epoch=lease.epoch
        )


def _age(record: RunRecord) -> tuple[str, str]:
    return record.started_at, record.run_id


def _check_identity(record: RunRecord, plan: Plan) -> None:
    if record.identity == plan.identity:
        return
    changes = "\n".join(f"  {line}" for line in difference(record.identity_doc, plan.identity_doc))
    raise RunMismatchError(
        f"run {record.run_id!r} was started with a different plan and cannot resume with this one:\n"
        f"{changes}\n"
        "start a new run, or restore the original plan"
    )
