"""Count the actions that a run has used on Temporal, from its histories.

https://docs.temporal.io/cloud/actions defines actions. Queries, rejected updates and heartbeats that reach
the server also count but are in no history; an unwatched run with short chunks has none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

__all__ = ["actions_of", "count"]

# a child workflow was counted at its parent, as two actions
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
    """Count the actions of a run and its shards, including continued ones, but not of following runs."""
    total = 1  # the start itself
    async for event in _events(client, workflow_id):
        total += count(event)
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            if child.workflow_id.startswith(f"{workflow_id}/"):
                async for one in _events(client, child.workflow_id, child.run_id):
                    total += count(one)
    return total


async def _events(client: Client, workflow_id: str, run_id: str | None = None) -> AsyncIterator[HistoryEvent]:
    """Yield the events of a workflow and of its continuations."""
    while run_id != "":
        handle, run_id = client.get_workflow_handle(workflow_id, run_id=run_id), ""
        async for event in handle.fetch_history_events():
            yield event
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                run_id = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
