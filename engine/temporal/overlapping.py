"""Check whether a run without a lease is in progress because its workflow is."""

from __future__ import annotations

from contextlib import suppress

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import ServiceError
from engine.state.records import DURABLE_GROUP, RunRecord

__all__ = ["working_on"]


async def working_on(record: RunRecord) -> str:
    """Return the workflow that works on a run; "" when none does.

    A durable run has no lease between two chunks, while it is paused, or while it waits for a worker.

    Raises:
        ServiceError: the server does not answer.
    """
    with suppress(RuntimeError):  # outside of a worker there is no client
        client = activity.client()
        # a resumed run has a new workflow
        for name in dict.fromkeys((record.group_id, f"{DURABLE_GROUP}{record.pipeline}/{record.run_id}")):
            if name.startswith(DURABLE_GROUP) and await _is_running(client, name):
                return f"workflow {name}"
    return ""


async def _is_running(client: Client, name: str) -> bool:
    try:
        described = await client.get_workflow_handle(name).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise ServiceError(f"the Temporal server does not answer: {error.message}") from error
    return described.status is WorkflowExecutionStatus.RUNNING
