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

from engine.service.runs import RunHost, RunStartError

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["parameters_of", "trigger"]

_log = logging.getLogger(__name__)

_IGNORED = ("tag",)


async def trigger(request: Request, host: RunHost, name: str, known: Collection[str]) -> Response:
    """Start a run of a pipeline. Parameters that it does not have are ignored, as everywhere."""
    context = cast("ServiceContext", request.app.state.context)
    if context.is_stopping:
        return answer({"success": False, "message": "The service is stopping"}, 503)
    params = parameters_of(request.scope["query_string"], known)
    try:
        started = await host.start(name, params)
    except RunStartError as error:
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
