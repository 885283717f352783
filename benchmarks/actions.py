"""How many of Temporal's actions a run has taken, counted in its histories.

What counts is on https://docs.temporal.io/cloud/actions. Queries, rejected updates and heartbeats that reach
the server count as well and are in no history; an unwatched run with short chunks has none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

__all__ = ["actions_of", "count"]

# one that is started by another workflow was counted there, twice
_ONCE = frozenset(
    {
        EventType.EVENT_TYPE_TIMER_STARTED,
        EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
    }
)


def count(event: HistoryEvent) -> int:
    """Return the actions that an event represents."""
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
        return event.activity_task_started_event_attributes.attempt
    if event.event_type == EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
        return 2
    return int(event.event_type in _ONCE)


async def actions_of(client: Client, workflow_id: str) -> int:
    """Those of a run and of its shards, in all of their parts; what follows the run is not part of it."""
    total = 1  # somebody started it
    async for event in _events(client, workflow_id):
        total += count(event)
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            if child.workflow_id.startswith(f"{workflow_id}/"):
                async for one in _events(client, child.workflow_id, child.run_id):
                    total += count(one)
    return total


async def _events(client: Client, workflow_id: str, run_id: str | None = None) -> AsyncIterator[HistoryEvent]:
    """Of a workflow, and of what it has continued as."""
    while run_id != "":
        handle, run_id = client.get_workflow_handle(workflow_id, run_id=run_id), ""
        async for event in handle.fetch_history_events():
            yield event
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                run_id = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
