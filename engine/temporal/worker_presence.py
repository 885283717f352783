"""Whether workers process a run, and their trouble, according to the server."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowExecutionDescription

from engine.errors import ConfigError
from engine.temporal.messages import Trouble
from engine.temporal.trouble import said

__all__ = ["WorkerPresence", "worker_presence"]

MANY_ATTEMPTS = 4
"""Of a workflow task: it is retried without end, and a worker's restart does not fail this often."""

MAX_SHARDS = 16
"""Shards that are asked about; when none of these has a worker, the others hardly have."""


@dataclass(frozen=True, slots=True)
class WorkerPresence:
    """The workers of a run.

    Args:
        served: True when a worker is at something of the run, False when all of it waits for one. None when
            there is nothing to do just now: the run is paused, or waits until it tries something again. A
            worker that was killed counts until the server takes it for dead.
        trouble: for people: what the chunks under way wait for, or why the last attempt at one failed; ""
            when nothing is in the way.
    """

    served: bool | None
    trouble: str = ""


async def worker_presence(client: Client, described: WorkflowExecutionDescription) -> WorkerPresence:
    """Find the workers of a run and their current trouble.

    Raises:
        RPCError: the server does not answer.
    """
    workflows = [described.raw_description]
    for child in described.raw_description.pending_children[:MAX_SHARDS]:
        shard = await client.get_workflow_handle(child.workflow_id).describe()
        workflows.append(shard.raw_description)
    answers = [_has_worker(workflow) for workflow in workflows]
    served = True if True in answers else False if False in answers else None
    pending = [activity for workflow in workflows for activity in workflow.pending_activities]
    troubles = [trouble for activity in pending for trouble in await _beats(client, activity)]
    undecided = filter(None, map(_undecided, workflows))
    failed = filter(None, map(_failed, pending))
    return WorkerPresence(served, next(undecided, "") or said(troubles) or next(failed, ""))


async def _beats(client: Client, activity: PendingActivityInfo) -> list[Trouble]:
    """What the last heartbeat says that the work waits for."""
    payloads = list(activity.heartbeat_details.payloads)
    if not payloads:
        return []
    try:
        (cursor,) = await client.data_converter.decode(payloads, [dict])
        trouble = Trouble(**cursor["trouble"])
    # none yet, nothing in the way, one of another version, or one that needs a codec: a hint, nothing more
    except (ConfigError, KeyError, RuntimeError, TypeError, ValueError):
        return []
    return [trouble]


def _undecided(workflow: DescribeWorkflowExecutionResponse) -> str:
    """Says that a workflow gets no further, however often its next decision is tried."""
    attempt = workflow.pending_workflow_task.attempt
    if attempt < MANY_ATTEMPTS:
        return ""
    name = workflow.workflow_execution_info.execution.workflow_id
    return f"workflow {name} has failed to continue {attempt - 1} times: see the workers' log"


def _failed(activity: PendingActivityInfo) -> str:
    """Why the last attempt at an activity failed that is tried again."""
    if not activity.HasField("last_failure"):
        return ""
    failure = activity.last_failure
    kind = failure.application_failure_info.type
    text = f"{kind}: {failure.message}" if kind else failure.message
    return f"attempt {activity.attempt} after {text}"


def _has_worker(workflow: DescribeWorkflowExecutionResponse) -> bool | None:
    waits = False
    for activity in workflow.pending_activities:
        if activity.state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
            return True
        # one that has failed is not offered to workers before its next attempt is due
        waits = waits or not activity.HasField("next_attempt_schedule_time")
    if workflow.HasField("pending_workflow_task"):
        if (
            workflow.pending_workflow_task.state
            == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
        ):
            return True
        waits = True
    return False if waits else None
