"""Start runs and find their workflows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from temporalio import activity
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import ConfigError, RunNotFoundError, ServiceError
from engine.state.records import DURABLE_GROUP, RunRecord
from engine.temporal.messages import (
    ALL_PARAMS_BYTES,
    MAX_SHARDS,
    MAX_WINDOW,
    PARAMS_BYTES,
    SEARCH_ATTRIBUTES,
    PipelineRequest,
    PipelineResult,
)
from engine.temporal.workflows import PipelineRun

Handle = WorkflowHandle[PipelineRun, PipelineResult]


def workflow_id(pipeline: str, run_key: str) -> str:
    """Return the workflow id `etl/<pipeline>/<run>`."""
    return f"{DURABLE_GROUP}{pipeline}/{run_key}"


async def start(client: Client, request: PipelineRequest) -> Handle:
    """Start or resume a run; concurrent workflows of one run are rejected.

    Raises:
        ConfigError: the run parameters are too large.
        ServiceError: the run is already in progress, or the server rejects it.
    """
    check_request(request)
    request = replace(request, search_attributes=await know_search_attributes(client))
    name = workflow_id(request.pipeline, request.run_id)
    try:
        return await client.start_workflow(
            PipelineRun.run,
            request,
            id=name,
            task_queue=request.queues.workflows,
            priority=Priority(priority_key=request.priority),
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
    except WorkflowAlreadyStartedError:
        raise ServiceError(
            f"run {request.run_id!r} is already running on Temporal (workflow {name})"
        ) from None
    except RPCError as error:
        raise ServiceError(f"the Temporal server refused to start {name}: {error.message}") from error


def check_request(request: PipelineRequest) -> None:
    """Raise `ConfigError` if a request exceeds the limits of the server or of a history."""
    for name, number, most in (
        ("--shards", request.shards, MAX_SHARDS),
        ("--window", request.window, MAX_WINDOW),
    ):
        if not 1 <= number <= most:
            raise ConfigError(f"{name} is from 1 to {most}, not {number:,}")
    check_params(request.params)


def check_params(params: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ConfigError` if run parameters are too large for a history."""
    total = 0
    for pipeline, values in params.items():
        size = len(json.dumps(values, default=str).encode())
        if size > PARAMS_BYTES:
            raise ConfigError(
                f"the run parameters of {pipeline!r} take {size:,} bytes, more than the {PARAMS_BYTES:,} "
                "that may travel through Temporal: put long values into the file, or into an object that "
                "it names"
            )
        total += size
    if total > ALL_PARAMS_BYTES:
        raise ConfigError(
            f"the run parameters of {len(params):,} pipelines are {total:,} bytes together,"
            f" {ALL_PARAMS_BYTES:,} may travel through Temporal: put long values into the file"
        )


async def refuse_running(client: Client, record: RunRecord) -> None:
    """Raise an error if the workflow of a run to resume is still running, e.g. paused.

    Raises:
        ServiceError: a workflow works on the run.
    """
    try:
        handle = await find(client, record)
    except RunNotFoundError:
        return
    if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
        raise ServiceError(f"run {record.run_id!r} is already running on Temporal: workflow {handle.id}")


async def find(client: Client, record: RunRecord) -> Handle:
    """Find the latest workflow of a run.

    Raises:
        RunNotFoundError: the server has none; the run is local, or its history was deleted.
    """
    handle = await _first_of(client, [workflow_id(record.pipeline, record.run_id), record.group_id])
    if handle is None:
        raise RunNotFoundError(
            f"run {record.run_id!r} has no workflow on this Temporal server ({client.namespace}): it is a "
            "local run, or its workflow was deleted. `runs show` shows its status; `submit --resume "
            f"{record.run_id}` resumes it durably"
        )
    return handle


async def find_submitted(client: Client, run_id: str) -> Handle | None:
    """Find the workflow of a submitted run that is not in the state store.

    No worker has started it yet, or none could.
    """
    pipeline, *rest = run_id.rsplit("-", 2)
    return await _first_of(client, [workflow_id(pipeline, run_id)]) if len(rest) == 2 else None


async def working_on(record: RunRecord) -> str:
    """Return the workflow that works on a run; "" when none does. Called in activities.

    A durable run has no lease between two chunks, while it is paused, or while it waits for a worker.

    Raises:
        ServiceError: the server does not answer.
    """
    with suppress(RuntimeError):  # outside of a worker there is no client
        client = activity.client()
        # a resumed run has a new workflow
        for name in dict.fromkeys((record.group_id, workflow_id(record.pipeline, record.run_id))):
            described = await _described(client, name) if name.startswith(DURABLE_GROUP) else None
            if described is not None and described.status is WorkflowExecutionStatus.RUNNING:
                return f"workflow {name}"
    return ""


async def _first_of(client: Client, names: Iterable[str]) -> Handle | None:
    for name in names:  # the group of a local run is no workflow
        if name.startswith(DURABLE_GROUP) and await _described(client, name) is not None:
            return client.get_workflow_handle_for(PipelineRun.run, name)
    return None


async def _described(client: Client, name: str) -> WorkflowExecutionDescription | None:
    """Return what the server knows of a workflow; None if it has none of that name."""
    try:
        return await client.get_workflow_handle(name).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise ServiceError(f"the Temporal server does not answer: {error.message}") from error


async def request_before(client: Client, record: RunRecord) -> PipelineRequest | None:
    """Return the request of the latest workflow of a run, or None if the server has none.

    Raises:
        ServiceError: the server does not answer.
    """
    try:
        handle = await find(client, record)
        async for event in handle.fetch_history_events(page_size=1):
            given = event.workflow_execution_started_event_attributes.input.payloads
            (request,) = await client.data_converter.decode(given, [PipelineRequest])
            return request  # type: ignore[no-any-return]
    except RunNotFoundError:
        return None
    except RPCError as error:
        raise ServiceError(f"the Temporal server does not answer: {error.message}") from error
    return None


async def know_search_attributes(client: Client) -> bool:
    """Register our search attributes; return whether that was possible."""
    wanted = {key.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for key in SEARCH_ATTRIBUTES}
    operator, namespace = client.operator_service, client.namespace
    try:
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
        missing = {name: kind for name, kind in wanted.items() if name not in known.custom_attributes}
        if missing:
            await operator.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes=missing)
            )
    except RPCError as error:
        # on Temporal Cloud and locked-down servers an administrator adds them, or runs are found only by id
        return error.status is RPCStatusCode.ALREADY_EXISTS
    return True
