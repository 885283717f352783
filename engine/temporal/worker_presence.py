"""Query the server whether workers process a run, and for their trouble."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowExecutionDescription

from engine.errors import ConfigError
from engine.temporal.messages import Trouble
from engine.temporal.trouble import said

MANY_ATTEMPTS = 4
"""Attempts of a workflow task, which is retried without end; a worker's restart does not fail this often."""

MAX_SHARDS = 16
"""Maximum shards to query; if none of these has a worker, the others hardly have one."""


@dataclass(frozen=True, slots=True)
class WorkerPresence:
    """The workers of a run.

    Args:
        served: True when a worker processes a part of the run, False when all parts wait for one. None when
            there is nothing to do now: the run is paused, or waits for a retry. A killed worker counts until
            the server considers it dead.
        trouble: human-readable: what the chunks in progress wait for, or why the last attempt at one failed;
            "" without trouble.
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
    """Return what the work waits for, according to the last heartbeat."""
    payloads = list(activity.heartbeat_details.payloads)
    if not payloads:
        return []
    try:
        (cursor,) = await client.data_converter.decode(payloads, [dict])
        trouble = Trouble(**cursor["trouble"])
    # no heartbeat yet, no trouble, another version, or a codec is needed: this is only a hint
    except (ConfigError, KeyError, RuntimeError, TypeError, ValueError):
        return []
    return [trouble]


def _undecided(workflow: DescribeWorkflowExecutionResponse) -> str:
    """Return a message for a workflow whose task keeps failing."""
    attempt = workflow.pending_workflow_task.attempt
    if attempt < MANY_ATTEMPTS:
        return ""
    name = workflow.workflow_execution_info.execution.workflow_id
    return f"workflow {name} has failed to continue {attempt - 1} times: see the workers' log"


def _failed(activity: PendingActivityInfo) -> str:
    """Return why the last attempt of a retried activity failed."""
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
        # a failed activity is not offered to workers before its next attempt is due
        waits = waits or not activity.HasField("next_attempt_schedule_time")
    if workflow.HasField("pending_workflow_task"):
        if (
            workflow.pending_workflow_task.state
            == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
        ):
            return True
        waits = True
    return False if waits else None
