"""`GET /consumption/extract-<…>`: starting a pipeline, with the parameters of the query string."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, cast
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


async def trigger(request: Request, host: RunHost, name: str, known: Collection[str]) -> Response:
    """Start a run of a pipeline. Parameters that it does not have are ignored, as everywhere."""
    context = cast("ServiceContext", request.app.state.context)
    if context.is_stopping:
        return answer({"success": False, "message": "The service is stopping"}, 503)
    try:
        params = await given_parameters(request, context, known)
        started = await host.start(name, params)
    except BodyError as error:
        return answer({"success": False, "message": str(error)}, error.status)
    except RunStartError as error:
        if not error.is_callers:  # a caller's own mistake would put what was sent into the log
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
    """The parameters of a request: of its query string, and of a JSON object in its body.

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
    """A JSON answer."""
    return Response(orjson.dumps(content, default=str), status, media_type="application/json")


def parameters_of(query: bytes, known: Collection[str]) -> dict[str, str]:
    """The known parameters of a query string; of one that is repeated the last, empty ones left out.

    Clients put object patterns into the address as they are. So `&` separates only where the name of a known
    parameter follows, and in a value that holds `://` unencoded a plus sign is one.
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
    """A value without parameters after it that is not known."""
    return re.split(r"&[A-Za-z_][A-Za-z0-9_-]*=", value, maxsplit=1)[0]
