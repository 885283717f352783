"""Runs as workflows, on the routes of the original's clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from engine.service.bodies import BodyError
from engine.service.context import ServiceContext
from engine.service.routing import READS, not_allowed
from engine.service.runs import HostedRun, RunStartError, RunState
from engine.service.triggers import answer, given_parameters

__all__ = ["administrate", "duration_text", "list_workflows"]

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 1_000
_FILTERS: dict[str, RunState] = {"running": "RUNNING", "completed": "COMPLETED", "failed": "FAILED"}
_SECOND = timedelta(seconds=1)


async def list_workflows(request: Request, context: ServiceContext) -> Response:
    """Answer `GET /workflows/list`: the latest runs as an array. Invalid parameter values are ignored."""
    return answer([_row(run) for run in await _runs(request, context)])


async def _runs(request: Request, context: ServiceContext) -> list[HostedRun]:
    limit = request.query_params.get("limit", "")
    count = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 6 else _DEFAULT_LIMIT
    state = _FILTERS.get(request.query_params.get("status", "").lower())
    if context.host is None:
        return []
    return await context.host.list_runs(min(count, _MAX_LIMIT), (state,) if state else ())


def _row(run: HostedRun) -> dict[str, object]:
    return {
        "name": run.workflow_id,
        "run_id": run.run_id,
        "status": f"WORKFLOW_EXECUTION_STATUS_{run.state}",
        "started_at": f"{run.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC",
        "duration": duration_text(run.ended_at - run.started_at) if run.ended_at else "-",
    }


def duration_text(duration: timedelta) -> str:
    """Format a duration: `120ms`, `5s`, `2m 3s` or `1h 2m 3s`."""
    if duration < _SECOND:
        return f"{max(duration, timedelta()) // timedelta(milliseconds=1)}ms"
    minutes, seconds = divmod(duration // _SECOND, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m {seconds}s"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


async def administrate(request: Request, context: ServiceContext) -> Response:
    """Answer the routes below `/admin/workflows`; requires the admin key."""
    parts = request.path_params["path"].split("/")
    if parts == ["history"] and request.method in READS:
        return answer([_row(run) for run in await _runs(request, context)])
    if len(parts) != 2 or parts[1] not in ("trigger", "terminate"):
        return answer({"error": "Not found", "details": "history, <name>/trigger or <name>/terminate"}, 404)
    if request.method != "POST":
        return not_allowed("POST")
    return await (_trigger if parts[1] == "trigger" else _terminate)(request, context, parts[0])


async def _trigger(request: Request, context: ServiceContext, name: str) -> Response:
    known = context.host.parameters(name) if context.host is not None else None
    if context.host is None or known is None:
        return answer({"error": "Failed to start workflow", "details": f"no workflow {name!r}"}, 400)
    try:
        params = await given_parameters(request, context, known)
        started = await context.host.start(name, params)
    except (BodyError, RunStartError) as error:
        return answer({"error": "Failed to start workflow", "details": str(error)}, 400)
    return answer({"workflowId": started.workflow_id, "runId": started.run_id})


async def _terminate(request: Request, context: ServiceContext, name: str) -> Response:
    run = await context.host.terminate(name) if context.host is not None else None
    if run is None:
        return answer({"error": "Failed to terminate workflow", "details": f"{name!r} is not running"}, 400)
    return answer({"workflowId": run.workflow_id, "runId": run.run_id, "terminatedAt": datetime.now(UTC)})
