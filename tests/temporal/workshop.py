"""Small in-memory pipelines on a real server, with workers in this process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy

from engine.contract.batch import Batch
from engine.contract.component import ComponentSpec, Kind, Receipt, Sink
from engine.contract.types import JsonValue
from engine.execution.engine import Engine
from engine.plan.model import Plan
from engine.temporal.activities import Activities
from engine.temporal.messages import PipelineProgress, PipelineRequest, PipelineResult, Queues
from engine.temporal.supervision import Patience
from engine.temporal.worker import ROLES, WorkerOptions, serve
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer

__all__ = ["PATIENCE", "Held", "Workshop", "made_anew", "numbered", "until", "workshop"]

PATIENCE = 900.0  # seconds that anything here may take on a loaded machine; nothing waits so long in vain
BEATS = {"beat_every": 0.2, "beat_throttle": 0.2}  # seconds; a cancellation is told with every heartbeat

Handle = WorkflowHandle[PipelineRun, PipelineResult]
Plans = Callable[[str, Mapping[str, JsonValue]], Plan]


def numbered(splits: int, size: int = 10, pages: int = 1) -> dict[str, list[list[int]]]:
    """Pages of numbers for a memory source, the same number of them in each split."""
    return {
        f"s{split}": [[(split * pages + page) * size + item for item in range(size)] for page in range(pages)]
        for split in range(splits)
    }


def made_anew(source: MemorySource, sink: Callable[[], Sink[Any]], **settings: Any) -> Plan:
    """A plan whose sink is made for each chunk, so that it knows which chunk it is in."""
    plan = linear_plan(source, MemorySink(), **settings)
    spec = ComponentSpec("sink", Kind.SINK, lambda params, connection: sink())
    return replace(plan, nodes=(plan.nodes[0], replace(plan.nodes[1], spec=spec)))


class Held(MemorySink):
    """Accepts nothing before its chunk is asked to stop reading, or the gate is opened.

    Args:
        records: where to put what is taken.
        begun: called with the name of the chunk before each write.
    """

    def __init__(self, records: list[Any], gate: anyio.Event, begun: Callable[[str], None] = str) -> None:  # type: ignore[assignment]
        super().__init__()
        self.records, self._gate, self._begun = records, gate, begun

    async def write(self, batch: Batch) -> Receipt:
        self._begun(self.ctx.chunk)
        while not (self.ctx.draining() or self._gate.is_set()):  # noqa: ASYNC110 - nothing tells of a drain
            await anyio.sleep(0.01)
        return await super().write(batch)


@dataclass
class Workshop:
    """A client, an engine, and queues of its own."""

    client: Client
    engine: Engine
    plans: Plans
    queues: Queues = field(default_factory=lambda: Queues.named(uuid.uuid4().hex[:12]))

    async def start(self, pipeline: str = "test", **options: Any) -> Handle:
        """Start a run; `options` are the request's, and Temporal's `priority`."""
        own = {name: options.pop(name) for name in ("priority",) if name in options}
        settings = {"queues": self.queues, "search_attributes": True, "heartbeat": PATIENCE, **options}
        request = PipelineRequest(pipeline, **settings)
        run_key = request.run_id or uuid.uuid4().hex[:12]
        return await self.client.start_workflow(
            PipelineRun.run,
            replace(request, run_id=run_key),
            id=f"etl/{pipeline}/{run_key}",
            task_queue=self.queues.workflows,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            **own,
        )

    async def run(self, pipeline: str = "test", **options: Any) -> PipelineResult:
        """Start a run and wait for its end."""
        handle = await self.start(pipeline, **options)
        with anyio.fail_after(PATIENCE):
            return await handle.result()

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncGenerator[anyio.Event, None]:
        """A worker; `options` are of `WorkerOptions` and of `Patience`, and a `client` if not ours."""
        options = BEATS | options
        own = {name: options.pop(name) for name in Patience.__dataclass_fields__ & options.keys()}
        activities = Activities(self.engine, self.plans, patience=Patience(**own))
        client = options.pop("client", self.client)
        settings = WorkerOptions(**{"queues": self.queues, "roles": ROLES, **options})
        stop = anyio.Event()
        task = asyncio.create_task(serve(client, activities, settings, stop))
        try:
            yield stop
        finally:
            stop.set()
            await task


@asynccontextmanager
async def workshop(
    server: DevServer, plans: Plan | Plans, *, engine: Engine | None = None, client: Client | None = None
) -> AsyncGenerator[Workshop, None]:
    """A workshop without workers, for one plan or for a way to compile plans."""
    compiling = (lambda pipeline, params: plans) if isinstance(plans, Plan) else plans
    async with engine or Engine() as owner:
        yield Workshop(client or server.client, owner, compiling)


async def until(handle: Handle, reached: Callable[[PipelineProgress], bool]) -> PipelineProgress:
    """Ask a run how far it is until it is far enough."""
    with anyio.fail_after(PATIENCE):
        while True:
            progress = await handle.query(PipelineRun.progress)
            if reached(progress):
                return progress
            await anyio.sleep(0.02)
