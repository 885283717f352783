"""`GET /consumption/extract-<…>`: start a pipeline with the parameters of the query string."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from engine.service.bodies import BodyError, read_body
from engine.service.runs import RunHost, RunStartError

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["answer", "given_parameters", "parameters_of", "trigger"]

_log = logging.getLogger(__name__)

_IGNORED = ("tag",)


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


def answer(content: object, status: int = 200) -> Response:
    """Create a JSON answer."""
    return Response(orjson.dumps(content, default=str), status, media_type="application/json")


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
                value = _first_value(value).replace("+", " ")
            text = unquote(value, errors="replace")
            if text:
                found[name] = text
    return found


def _first_value(value: str) -> str:
    """Return a value without the unknown parameters after it."""
    return re.split(r"&[A-Za-z_][A-Za-z0-9_-]*=", value, maxsplit=1)[0]
