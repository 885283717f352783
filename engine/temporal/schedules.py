"""Schedules on the server, from the `schedule:` of pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import Priority
from temporalio.service import RPCError, RPCStatusCode

from engine.config.cron import interval_of
from engine.errors import ConfigError, ServiceError
from engine.state.records import DURABLE_GROUP
from engine.temporal.messages import PipelineRequest
from engine.temporal.starting import check_request, know_search_attributes, workflow_id
from engine.temporal.workflows import PipelineRun

MIN_CATCH_UP = timedelta(seconds=10)
"""The server's minimum in seconds; it would silently raise lower values."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A schedule on the server; `next_run` is UTC, ISO 8601, or ""."""

    pipeline: str
    cron: str
    paused: bool
    next_run: str
    note: str = ""
    time_zone: str = "UTC"


def _schedule_id(pipeline: str) -> str:
    return f"{DURABLE_GROUP}{pipeline}"


async def create(
    client: Client,
    request: PipelineRequest,
    cron: str,
    *,
    time_zone: str = "UTC",
    overlap: str = "skip",
    catch_up: timedelta = timedelta(minutes=5),
) -> bool:
    """Create or update the schedule of a pipeline.

    Args:
        cron: five fields, a shorthand such as `@daily`, or an interval (`5m`, `@every 5m`).
        time_zone: time zone of the fields, as in the time-zone database; unused for intervals.
        overlap: what happens when a run is due while the last one is in progress: a policy of the server, in
            lower case.
        catch_up: runs missed while the server was down are started late within this time, at least
            `MIN_CATCH_UP`.

    Returns:
        True if the schedule is new, False if it existed.

    Raises:
        ConfigError, ServiceError: the server rejects it.
    """
    check_request(request)
    known = await know_search_attributes(client)
    request = replace(request, run_id="", schedule=cron, search_attributes=known)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            PipelineRun.run,
            request,
            # the server appends the due time
            id=workflow_id(request.pipeline, "scheduled"),
            task_queue=request.queues.workflows,
            priority=Priority(priority_key=request.priority),
        ),
        spec=_spec(cron, time_zone),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy[overlap.upper()], catchup_window=max(catch_up, MIN_CATCH_UP)
        ),
    )
    name = _schedule_id(request.pipeline)
    try:
        await client.create_schedule(name, schedule)
    except ScheduleAlreadyRunningError:
        await _check_queue(client, request)
        await client.get_schedule_handle(name).update(lambda found: _changed(found, schedule))
        return False
    except RPCError as error:
        raise _refused(f"schedule {request.pipeline!r}", error) from error
    return True


async def _check_queue(client: Client, request: PipelineRequest) -> None:
    """Raise `ConfigError` when the schedule of that name belongs to another installation."""
    described = await _described(client, _schedule_id(request.pipeline))
    action = described.schedule.action if described is not None else None
    if isinstance(action, ScheduleActionStartWorkflow) and action.task_queue != request.queues.workflows:
        raise ConfigError(
            f"{request.pipeline!r} has a schedule on this server already, for the workers of queue"
            f" {action.task_queue.removesuffix('-wf')!r}: delete that one first, use its --queue, or another"
            " --namespace"
        )


def _changed(found: ScheduleUpdateInput, schedule: Schedule) -> ScheduleUpdate:
    return ScheduleUpdate(replace(schedule, state=found.description.schedule.state))


async def listed(client: Client) -> Sequence[Listed]:
    """Return all schedules of pipelines, by name."""
    found: list[Listed] = []
    try:
        async for one in await client.list_schedules():
            if not one.id.startswith(DURABLE_GROUP):
                continue
            described = await _described(client, one.id)
            if described is None:
                continue
            times = described.info.next_action_times
            found.append(
                Listed(
                    one.id.removeprefix(DURABLE_GROUP),
                    await _written(client, described),
                    described.schedule.state.paused,
                    times[0].isoformat() if times else "",
                    described.schedule.state.note or "",
                    described.schedule.spec.time_zone_name or "UTC",
                )
            )
    except RPCError as error:
        raise _refused("list schedules", error) from error
    return sorted(found, key=lambda one: one.pipeline)


async def _described(client: Client, name: str) -> ScheduleDescription | None:
    """Return a schedule's description; None for a recently deleted one, which the server still lists."""
    try:
        return await client.get_schedule_handle(name).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


def _spec(cron: str, time_zone: str) -> ScheduleSpec:
    seconds = interval_of(cron)
    if seconds is not None:
        return ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(seconds=seconds))])
    # the server keeps a calendar and its comment, not the expression
    zone = None if time_zone == "UTC" else time_zone
    return ScheduleSpec(cron_expressions=[f"{cron} # {cron}"], time_zone_name=zone)


async def _written(client: Client, described: ScheduleDescription) -> str:
    """Return the schedule as written in the file, which only the request has."""
    action = described.schedule.action
    if isinstance(action, ScheduleActionStartWorkflow) and action.args:
        given = [one for one in action.args if isinstance(one, Payload)]
        # for a request of another codec, show only the server's form
        with suppress(ConfigError, RuntimeError, TypeError, ValueError):
            (request,) = await client.data_converter.decode(given, [PipelineRequest])
            if request.schedule:
                return str(request.schedule)
    return _cron(described.schedule.spec)


def _cron(spec: ScheduleSpec) -> str:
    intervals = [f"@every {interval.every.total_seconds():g}s" for interval in spec.intervals]
    return ", ".join([*(calendar.comment or "?" for calendar in spec.calendars), *intervals])


async def pause(client: Client, pipeline: str) -> None:
    """Pause a schedule; a run in progress continues."""
    await (await _known(client, pipeline)).pause()


async def unpause(client: Client, pipeline: str) -> None:
    """Resume a schedule."""
    await (await _known(client, pipeline)).unpause()


async def delete(client: Client, pipeline: str) -> None:
    """Delete the schedule; a run in progress continues."""
    await (await _known(client, pipeline)).delete()


async def _known(client: Client, pipeline: str) -> ScheduleHandle:
    try:
        described = await _described(client, _schedule_id(pipeline))
    except RPCError as error:
        raise _refused(f"find the schedule of {pipeline!r}", error) from error
    if described is None:
        names = ", ".join(one.pipeline for one in await listed(client)) or "none"
        raise ConfigError(f"{pipeline!r} has no schedule on this server; scheduled: {names}")
    return client.get_schedule_handle(_schedule_id(pipeline))


def _refused(what: str, error: RPCError) -> ServiceError | ConfigError:
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return ConfigError(f"the Temporal server cannot {what}: {error.message}")
    return ServiceError(f"the Temporal server does not {what}: {error.message}")
