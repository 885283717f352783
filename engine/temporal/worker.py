"""A worker process that polls the task queues until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import anyio
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Interceptor, Worker, WorkerDeploymentConfig

from engine.execution.events import RunEvent
from engine.temporal.activities import Activities
from engine.temporal.loop_watchdog import Watchdog
from engine.temporal.messages import Queues
from engine.temporal.workflows import WORKFLOWS

ROLES = ("workflows", "planning", "work")

SHARE_OF_GRACE = 0.9

MAX_DRAIN = 300.0
"""Time limit of an attempt: 30 minutes; it stops reading after 24."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Options of a worker.

    Args:
        roles: the queues to poll; by default all.
        slots: concurrent chunks.
        grace: seconds for handing back chunks when the worker stops. Must be shorter than the grace period of
            the process supervisor.
        chunks_per_second: maximum chunks started per second on the whole queue; None means no limit. The
            server counts, so eager starts, which it does not see, are disabled with a limit.
        deployment: the server's name for all versions of these workers; without a dot.
        build_id: the version of the file and the code; a run stays with workers of the version that started
            it. "" disables versions: any worker takes any run.
        beat_throttle: minimum seconds between two heartbeats of a chunk to the server. Each is a billed
            action and delivers cancellations.
        blocked_after: seconds for which the event loop may be blocked before that is reported.
        interceptors: SDK interceptors around workflows and activities.
    """

    queues: Queues
    roles: Collection[str] = ROLES
    slots: int = 4
    grace: float = 60.0
    chunks_per_second: float | None = None
    deployment: str = "odw"
    build_id: str = ""
    beat_throttle: float = 30.0
    blocked_after: float = 5.0
    interceptors: Sequence[Interceptor] = ()


def drain_limit(grace: float) -> float:
    """Return the seconds for a chunk to deliver what it has read before it is handed back within `grace`.

    Bounded, because it also applies to a chunk whose time is nearly up.
    """
    return min(SHARE_OF_GRACE * grace, MAX_DRAIN)


def workers(client: Client, activities: Activities, options: WorkerOptions) -> list[Worker]:
    """Create one worker per queue."""
    made: list[Worker] = []
    queues, grace = options.queues, timedelta(seconds=options.grace)
    worker = partial(Worker, client, interceptors=options.interceptors, deployment_config=_version(options))
    if "workflows" in options.roles:
        made.append(
            worker(
                task_queue=queues.workflows,
                workflows=WORKFLOWS,
                max_concurrent_workflow_tasks=20,
                disable_eager_activity_execution=options.chunks_per_second is not None,
            )
        )
    if "planning" in options.roles:
        made.append(
            worker(
                task_queue=queues.planning,
                activities=activities.planning,
                graceful_shutdown_timeout=grace,
            )
        )
    if "work" in options.roles:
        made.append(
            worker(
                task_queue=queues.work,
                activities=[activities.run_chunk],
                max_concurrent_activities=options.slots,
                max_heartbeat_throttle_interval=timedelta(seconds=options.beat_throttle),
                graceful_shutdown_timeout=grace,
                max_task_queue_activities_per_second=options.chunks_per_second,
                disable_eager_activity_execution=options.chunks_per_second is not None,
            )
        )
    return made


def _version(options: WorkerOptions) -> WorkerDeploymentConfig | None:
    if not options.build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(options.deployment, options.build_id),
        use_worker_versioning=True,
        # a run is bound to its plan, and so to workers whose file compiles to that plan
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


async def serve(client: Client, activities: Activities, options: WorkerOptions, stop: anyio.Event) -> None:
    """Work until `stop` is set, then hand back the work in progress and end.

    Activities of all queues share the same `grace`. Workflow tasks are processed until the last of them is
    over.
    """

    def tell(message: str, seconds: float) -> None:
        activities.observer(RunEvent("event_loop", message, "warning", "", "", {"seconds": round(seconds)}))

    made = workers(client, activities, options)
    async with AsyncExitStack() as stack:
        stack.enter_context(Watchdog(options.blocked_after, tell))
        for worker in made:
            await stack.enter_async_context(worker)
        # in sequence, each would use the full `grace`, and the last would take new work meanwhile
        with_activities = [worker for worker in made if worker.task_queue != options.queues.workflows]
        stack.push_async_callback(_shut_down, with_activities)
        await stop.wait()


async def _shut_down(together: Sequence[Worker]) -> None:
    await asyncio.gather(*(worker.shutdown() for worker in together))
