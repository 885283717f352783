"""Workflows changed without regard for running ones."""

from __future__ import annotations

from temporalio import workflow

from engine.temporal.messages import PipelineRequest, PipelineResult, ShardRequest, ShardResult
from engine.temporal.shards import ShardRun
from engine.temporal.workflows import PipelineRun

__all__ = ["OneByOne", "Sleepy"]


@workflow.defn(name="ShardRun")
class OneByOne(ShardRun):
    """Has one chunk under way, whatever the window."""

    @workflow.init
    def __init__(self, request: ShardRequest) -> None:
        super().__init__(request)

    @workflow.run
    async def run(self, request: ShardRequest) -> ShardResult:
        return await super().run(request)

    def _may_begin(self) -> bool:
        return not self._open and super()._may_begin()


@workflow.defn(name="PipelineRun")
class Sleepy(PipelineRun):
    """Waits a second before it begins."""

    @workflow.init
    def __init__(self, request: PipelineRequest) -> None:
        super().__init__(request)

    @workflow.run
    async def run(self, request: PipelineRequest) -> PipelineResult:
        await workflow.sleep(1)
        return await super().run(request)
