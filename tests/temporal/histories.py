"""The histories of a run: of its workflow, and of all parts of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory

__all__ = ["Family", "family", "kind", "payloads"]


@dataclass(frozen=True)
class Family:
    """`shards` has, for each shard, its parts in order; each but the last was continued as new."""

    root: WorkflowHistory
    shards: list[list[WorkflowHistory]]

    @property
    def all(self) -> list[WorkflowHistory]:
        """Every history."""
        return [self.root, *(part for parts in self.shards for part in parts)]

    def count(self, name: str) -> int:
        """Events of a type, such as `ACTIVITY_TASK_SCHEDULED`, in all histories."""
        return sum(Counter(kind(event) for event in one.events)[name] for one in self.all)

    def attempts(self) -> list[int]:
        """The attempt at which each activity that was started was at its end."""
        return [
            event.activity_task_started_event_attributes.attempt
            for one in self.all
            for event in one.events
            if kind(event) == "ACTIVITY_TASK_STARTED"
        ]

    def identities(self, activity: str) -> set[str]:
        """Whose workers have made the last attempts at the activities of a type: process and machine."""
        return {name for one in self.all for name in _identities(one, activity)}


def _identities(history: WorkflowHistory, activity: str) -> Iterator[str]:
    scheduled = {
        event.event_id
        for event in history.events
        if kind(event) == "ACTIVITY_TASK_SCHEDULED"
        and event.activity_task_scheduled_event_attributes.activity_type.name == activity
    }
    for event in history.events:
        started = event.activity_task_started_event_attributes
        if kind(event) == "ACTIVITY_TASK_STARTED" and started.scheduled_event_id in scheduled:
            yield started.identity


def kind(event: HistoryEvent) -> str:
    """`ACTIVITY_TASK_SCHEDULED` and so on."""
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


async def family(client: Client, workflow_id: str, run_id: str | None = None) -> Family:
    """All histories of a run."""
    root = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    shards = [
        await _parts(client, started.workflow_id, started.run_id)
        for event in root.events
        if kind(event) == "CHILD_WORKFLOW_EXECUTION_STARTED"
        for started in [event.child_workflow_execution_started_event_attributes.workflow_execution]
        if started.workflow_id.startswith(f"{workflow_id}/s")
    ]
    return Family(root, shards)


async def _parts(client: Client, workflow_id: str, run_id: str) -> list[WorkflowHistory]:
    parts: list[WorkflowHistory] = []
    while run_id:
        parts.append(await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history())
        last = parts[-1].events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return parts


def payloads(events: Sequence[HistoryEvent]) -> Iterator[tuple[str, Payload]]:
    """Everything that users' code has put into these events, with the type of the event."""
    for event in events:
        yield from ((kind(event), payload) for payload in _within(event))


def _within(message: object) -> Iterator[Payload]:
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inside = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            inside = value if isinstance(value, Sequence) or hasattr(value, "add") else (value,)
        for one in inside:
            yield from _within(one)
