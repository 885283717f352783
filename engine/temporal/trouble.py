"""Report the current trouble of work to the worker's log and the run's workflow.

A node may wait for up to `outage_limit`, and nothing else shows that. It is logged after some seconds and
then once a minute. The workflow, whose history grows with every report, is notified once every five minutes
per worker, even if several of its chunks wait for the same thing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import anyio
from temporalio import activity
from temporalio.service import RPCError

from engine.execution.events import Observer, RunEvent
from engine.flow.stats import RunSnapshot, Waiting
from engine.temporal.messages import Trouble

LOGGED_AFTER = 5.0
LOGGED_EVERY = 60.0
REPORTED_EVERY = 300.0
MAX_REMEMBERED = 1000

_SHARD = re.compile(r"/s\d+$")


class TroubleReports:
    """Times of reports to workflows, so that the chunks of a worker do not all report the same."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def is_due(self, workflow_id: str, node: str, now: float) -> bool:
        """Return whether to report to a workflow that a node waits."""
        told = self._told.get((workflow_id, node))
        if told is not None and now - told < REPORTED_EVERY:
            return False
        self._told[workflow_id, node] = now
        while len(self._told) > MAX_REMEMBERED:
            del self._told[next(iter(self._told))]
        return True

    def was_told(self, workflow_id: str, node: str) -> bool:
        """Return whether trouble that is now over was reported to a workflow, and forget it."""
        return self._told.pop((workflow_id, node), None) is not None


class TroubleWatch:
    """Watches the trouble of one piece of work.

    Args:
        look: returns the state of the run.
        observer: the worker's log.
        reports: the worker's reports to workflows.
        send: reports to the run's workflow; None without one.
        every: seconds between two checks.

    Attributes:
        trouble: current trouble; its node is "" when there is none.
    """

    def __init__(
        self,
        look: Callable[[], RunSnapshot],
        observer: Observer,
        reports: TroubleReports,
        send: Callable[[Trouble], Awaitable[None]] | None = None,
        *,
        every: float = 2.0,
    ) -> None:
        self.trouble = Trouble()
        self._look = look
        self._observer = observer
        self._reports = reports
        self._send = send
        self._every = every
        self._since = 0.0
        self._logged: float | None = None

    @property
    def current(self) -> Trouble | None:
        """Return the current trouble, for a heartbeat."""
        return self.trouble if self.trouble.node else None

    async def watch(self) -> None:
        """Observe until cancelled."""
        while True:
            await anyio.sleep(self._every)
            await self.note(anyio.current_time())

    async def note(self, now: float) -> None:
        """Observe once and report changes."""
        snapshot = self._look()
        node = snapshot.stuck
        before = self.trouble
        if before.node and (node is None or node.name != before.node):
            await self._over(snapshot, before)
        if node is None:
            self.trouble = Trouble()
            return
        if node.name != before.node:
            self._since, self._logged = now, None
        lasted = now - self._since
        # a time, not a duration, since heartbeats reach the server at most every half minute
        since = time.time() - lasted
        self.trouble = Trouble(node.name, str(node.waiting), node.note, round(since, 1))
        if lasted >= LOGGED_AFTER and (self._logged is None or now - self._logged >= LOGGED_EVERY):
            self._logged = now
            self._say(snapshot, "waiting", f"{node.name} waits for a retry: {node.note}", "warning", lasted)
            if self._reports.is_due(activity_workflow(), node.name, now):
                await self._report(self.trouble)

    async def end(self) -> None:
        """Report that the work has ended successfully."""
        before, self.trouble = self.trouble, Trouble()
        if before.node:
            await self._over(self._look(), before)

    async def _over(self, snapshot: RunSnapshot, trouble: Trouble) -> None:
        if self._logged is None:
            return
        lasted = time.time() - trouble.since
        self._say(snapshot, "recovered", f"{trouble.node} has recovered", "info", lasted)
        if self._reports.was_told(activity_workflow(), trouble.node):
            await self._report(Trouble(trouble.node))

    def _say(self, snapshot: RunSnapshot, action: str, message: str, level: str, seconds: float) -> None:
        numbers = {"seconds": round(seconds)}
        self._observer(RunEvent(action, message, level, snapshot.pipeline, snapshot.run_id, numbers))

    async def _report(self, trouble: Trouble) -> None:
        if self._send is not None:
            with suppress(RPCError):  # the server is away, or the run has just ended: the log has it
                await self._send(trouble)


def activity_workflow() -> str:
    """Return the workflow of this activity's run, or "" outside of one."""
    if not activity.in_activity():
        return ""
    # a chunk's own workflow is a shard, whose id begins with the run's
    return _SHARD.sub("", activity.info().workflow_id or "")


def said(troubles: Iterable[Trouble]) -> str:
    """Return the most severe and longest trouble for users; "" when there is none."""
    worst = max(troubles, key=lambda one: (one.waiting == Waiting.OUTAGE, -one.since), default=None)
    if worst is None or not worst.node:
        return ""
    lasted = max(0.0, time.time() - worst.since)
    return f"{worst.node} has been waiting for {lasted:.0f} s: {worst.note}"
