"""A workflow with its activity on one queue, where the server may start activities eagerly."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

__all__ = ["Fan", "nothing"]


@activity.defn
async def nothing() -> None:
    """Does nothing."""


@workflow.defn
class Fan:
    """Runs activities, three at a time."""

    @workflow.run
    async def run(self, times: int) -> None:
        for _ in range(times):
            await asyncio.gather(*(self._one() for _ in range(3)))

    async def _one(self) -> None:
        await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(seconds=30))
