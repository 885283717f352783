"""Scripted activities, for tests of the workflows' decisions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import anyio
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from engine.execution.events import Observer, null_observer
from engine.temporal.messages import (
    ChunkRequest,
    ChunkResult,
    Compiled,
    CompileRequest,
    Counts,
    FinalizeRequest,
    Listed,
    ListRequest,
    PipelineRequest,
    PipelineResult,
    Queues,
)
from engine.temporal.workflows import WORKFLOWS, PipelineRun
from tests.temporal.workshop import PATIENCE

__all__ = ["Stubs", "done"]

BEAT = timedelta(seconds=0.2)  # between heartbeats; a cancellation is told with them

Handle = WorkflowHandle[PipelineRun, PipelineResult]
Work = Callable[[ChunkRequest], Awaitable[ChunkResult]]


async def done(request: ChunkRequest) -> ChunkResult:
    """Every chunk is done at once."""
    return ChunkResult(counts=Counts(read=request.count, written=request.count))


@dataclass
class Stubs:
    """A client and stub activities.

    Args:
        splits: how many the only source has.
        work: does a chunk.
        compiled: what compiling the plan gives, but for the run's id.
        listing: waited for while a source is listed.
        chunk_splits: how many splits the chunks have that an earlier attempt has made.
        stops: how many workers hand a listing back before it is done.
    """

    client: Client
    splits: int = 4
    work: Work = done
    compiled: Compiled = field(default_factory=lambda: Compiled(identity="i", sources=["n0"]))
    listing: Callable[[], Awaitable[None]] | None = None
    chunk_splits: int = 0
    stops: int = 0
    queues: Queues = field(default_factory=lambda: Queues.named(uuid.uuid4().hex[:12]))
    finalized: list[FinalizeRequest] = field(default_factory=list)
    observer: Observer = null_observer
    chunks: list[int] = field(default_factory=list)
    """Places of the first splits of the chunks, in the order in which attempts at them began."""

    @property
    def planning(self) -> list[Callable[..., Any]]:
        """Those of the planning queue, as `Activities` has them."""
        return [self._compile_plan, self._list_chunks, self._finalize_run]

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None, None]:
        """Workers for everything."""
        async with AsyncExitStack() as stack:
            for queue, options in (
                (self.queues.workflows, {"workflows": WORKFLOWS}),
                (self.queues.planning, {"activities": self.planning}),
                (self.queues.work, {"activities": [self.run_chunk]}),
            ):
                options["max_heartbeat_throttle_interval"] = BEAT  # type: ignore[assignment]
                worker = Worker(self.client, task_queue=queue, **options)  # type: ignore[arg-type]
                await stack.enter_async_context(worker)
            yield

    async def start(self, **options: Any) -> Handle:
        """Start a run."""
        name = uuid.uuid4().hex[:12]
        settings = {"run_id": name, "queues": self.queues, "heartbeat": PATIENCE, **options}
        return await self.client.start_workflow(
            PipelineRun.run,
            PipelineRequest("test", **settings),
            id=f"etl/test/{name}",
            task_queue=self.queues.workflows,
        )

    async def run(self, **options: Any) -> PipelineResult:
        """Start a run and wait for its end."""
        handle = await self.start(**options)
        with anyio.fail_after(PATIENCE):
            return await handle.result()

    @activity.defn(name="compile_plan")
    async def _compile_plan(self, request: CompileRequest) -> Compiled:
        return replace(self.compiled, run_id=request.run_id)

    @activity.defn(name="list_chunks")
    async def _list_chunks(self, request: ListRequest) -> Listed:
        if self.listing is not None:
            await self.listing()
        if self.stops:
            self.stops -= 1
            return Listed(stopped=True)
        return Listed(self.splits, self.chunk_splits)

    @activity.defn(name="run_chunk")
    async def run_chunk(self, request: ChunkRequest) -> ChunkResult:
        self.chunks.append(request.first)
        return await self.work(request)

    @activity.defn(name="finalize_run")
    async def _finalize_run(self, request: FinalizeRequest) -> PipelineResult:
        self.finalized.append(request)
        return PipelineResult(request.run_id, request.status, request.error)
