"""Start, list and end runs over HTTP: `/consumption/extract-<…>`, `/workflows/list`, `/admin/workflows`."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from engine.service.bodies import BodyError, read_body
from engine.service.context import ServiceContext
from engine.service.operations import HostedRun, RunHost, RunStartError, RunState
from engine.service.routing import READS, answer, not_allowed

_log = logging.getLogger(__name__)

_IGNORED = ("tag",)
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


async def trigger(
    request: Request, context: ServiceContext, host: RunHost, name: str, known: Collection[str]
) -> Response:
    """Start a run of a pipeline. Unknown parameters are ignored, as on all routes."""
    if context.is_stopping:
        return answer({"success": False, "message": "The service is stopping"}, 503)
    try:
        params = await given_parameters(request, context, known)
        started = await host.start(name, params)
    except BodyError as error:
        return answer({"success": False, "message": str(error)}, error.status)
    except RunStartError as error:
        if not error.is_callers:  # an error of the caller would put the request's data into the log
            _log.error("a run of %s could not be started: %s", name, error)
        return answer({"success": False, "message": str(error)}, 400 if error.is_callers else 500)
    context.metrics.runs[started.pipeline] += 1
    return answer(
        {
            "success": True,
            "status": 200,
            "message": f"{started.pipeline} started",
            "pipeline": started.pipeline,
            "workflow_id": started.workflow_id,
            "run_id": started.run_id,
            "params": started.params,
        }
    )


async def given_parameters(
    request: Request, context: ServiceContext, known: Collection[str]
) -> dict[str, str]:
    """Return the parameters in a request's query string and in a JSON object in its body.

    Raises BodyError.
    """
    with context.inflight.share() as share:
        body = await read_body(request, context.body_limits, share)
    params = parameters_of(request.scope["query_string"], known)
    if not body.strip():
        return params
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyError(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BodyError(400, "the body must be a JSON object of parameters")
    texts = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in given.items()
    }
    return params | {name: text for name, text in texts.items() if name in known and given[name] is not None}


def parameters_of(query: bytes, known: Collection[str]) -> dict[str, str]:
    """Return the known parameters of a query string; the last of repeated ones, without empty ones.

    Clients put object patterns into the address unencoded. So `&` separates only if a known parameter
    follows, and a plus sign in a value with an unencoded `://` is literal.
    """
    names = [*known, *_IGNORED]
    start = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found: dict[str, str] = {}
    for part in re.split(rf"&(?=(?:{start})=)", query.decode("latin-1")):
        name, equals, value = part.partition("=")
        if equals and name in known:
            if "://" not in value:
                # without the unknown parameters after it
                value = re.split(r"&[A-Za-z_][A-Za-z0-9_-]*=", value, maxsplit=1)[0].replace("+", " ")
            text = unquote(value, errors="replace")
            if text:
                found[name] = text
    return found
