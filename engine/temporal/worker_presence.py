"""Whether anybody works on a run: what its workflows wait for, as the server tells."""

from __future__ import annotations

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowExecutionDescription

__all__ = ["has_workers"]

MAX_SHARDS = 16
"""Shards that are asked about; when none of these has a worker, the others hardly have."""


async def has_workers(client: Client, described: WorkflowExecutionDescription) -> bool | None:
    """True when a worker is at something of the run, False when all of it waits for one.

    None when there is nothing to do just now: the run is paused, or waits until it tries something again.
    A worker that was killed counts until the server takes it for dead.

    Raises:
        RPCError: the server does not answer.
    """
    answers = [_attended(described.raw_description)]
    for child in described.raw_description.pending_children[:MAX_SHARDS]:
        if True in answers:
            break
        shard = await client.get_workflow_handle(child.workflow_id).describe()
        answers.append(_attended(shard.raw_description))
    return True if True in answers else False if False in answers else None


def _attended(workflow: DescribeWorkflowExecutionResponse) -> bool | None:
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
