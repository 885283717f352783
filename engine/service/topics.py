"""Dead letters as topic messages, for the original's front end, which reads its topic viewer."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from engine.service.context import ServiceContext
from engine.service.guard import Guard
from engine.service.paging import ParameterError, bad_parameter, parse_count
from engine.service.routing import answer, needing, route
from engine.service.storage import Reader

_SUFFIX = "deadletterqueue"
_DEFAULT_COUNT = 100
_MAX_COUNT = 1_000
_COLUMNS = ("original_record", "error_message", "error_type", "failed_at", "source", "status")


def create_topic_app(context: ServiceContext) -> Starlette:
    """Create the app of `GET /topic/<Model>DeadLetterQueue/messages?offset=&count=`, oldest first."""
    app = Starlette(
        routes=[route("/topic/{topic}/messages", read=needing("consumption_key", _messages))],
        middleware=[Middleware(Guard, context.settings)],
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app


async def _messages(request: Request, context: ServiceContext) -> Response:
    """Return a page of one topic; an unknown topic has no messages."""
    try:
        offset = parse_count(request.query_params, "offset") or 0
        count = parse_count(request.query_params, "count")
    except ParameterError as error:
        return bad_parameter(error)
    topic = request.path_params["topic"].lower()
    if not topic.endswith(_SUFFIX) or request.query_params.get("partition", "0") != "0":
        return answer([])
    limit = min(_DEFAULT_COUNT if count is None else count, _MAX_COUNT)
    rows = await context.read(lambda reader: _rows(reader, topic.removesuffix(_SUFFIX), offset, limit))
    messages = [
        {"partition": 0, "offset": offset + place, "message": _message(row)} for place, row in enumerate(rows)
    ]
    return answer(messages)


def _rows(reader: Reader, model: str, offset: int, limit: int) -> list[tuple[Any, ...]]:
    return reader.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM _odw_dead_letters WHERE lower(model) = ? "  # noqa: S608 -- constant
        "ORDER BY commit_sequence, batch_index, dead_letter_id LIMIT ? OFFSET ?",
        [model, limit, offset],
    ).fetchall()


def _message(row: tuple[Any, ...]) -> str:
    content = dict(zip(_COLUMNS, row, strict=True))
    content["original_record"] = orjson.Fragment(content["original_record"])
    return orjson.dumps(content, option=orjson.OPT_NAIVE_UTC).decode()
