"""Dead letters as topic messages, for the original's front end, which reads its topic viewer."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.service.context import ServiceContext
from engine.service.guard import Guard, unauthorized
from engine.service.paging import ParameterError, bad_parameter, parse_count

__all__ = ["create_topic_app"]

_SUFFIX = "deadletterqueue"
_DEFAULT_COUNT = 100
_MAX_COUNT = 1_000
_COLUMNS = "original_record, error_message, error_type, failed_at, source, status"


def create_topic_app(context: ServiceContext) -> Starlette:
    """Create the app of `GET /topic/<Model>DeadLetterQueue/messages?offset=&count=`, oldest first."""
    app = Starlette(
        routes=[Route("/topic/{topic}/messages", _messages)],
        middleware=[Middleware(Guard, context.settings)],
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app


async def _messages(request: Request) -> Response:
    """Return a page of one topic; an unknown topic has no messages."""
    context: ServiceContext = request.app.state.context
    if not await context.consumption_key.allows(request.headers.get("authorization")):
        return unauthorized()
    try:
        offset = parse_count(request.query_params, "offset") or 0
        count = parse_count(request.query_params, "count")
    except ParameterError as error:
        return bad_parameter(error)
    topic = request.path_params["topic"].lower()
    if not topic.endswith(_SUFFIX) or request.query_params.get("partition", "0") != "0":
        return Response(b"[]", media_type="application/json")
    limit = min(_DEFAULT_COUNT if count is None else count, _MAX_COUNT)
    rows = await context.in_thread(lambda: _rows(context, topic.removesuffix(_SUFFIX), offset, limit))
    messages = [
        {"partition": 0, "offset": offset + place, "message": _message(row)} for place, row in enumerate(rows)
    ]
    return Response(orjson.dumps(messages), media_type="application/json")


def _rows(context: ServiceContext, model: str, offset: int, limit: int) -> list[tuple[Any, ...]]:
    with context.warehouse.reading() as reader:
        return reader.execute(
            f"SELECT {_COLUMNS} FROM _odw_dead_letters WHERE lower(model) = ? "  # noqa: S608 -- constant
            "ORDER BY commit_sequence, batch_index, dead_letter_id LIMIT ? OFFSET ?",
            [model, limit, offset],
        ).fetchall()


def _message(row: tuple[Any, ...]) -> str:
    original, message, kind, failed_at, source, status = row
    content = {
        "original_record": orjson.Fragment(original),
        "error_message": message,
        "error_type": kind,
        "failed_at": failed_at,
        "source": source,
        "status": status,
    }
    return orjson.dumps(content, option=orjson.OPT_NAIVE_UTC).decode()
