"""`GET /dead-letters`: records that the service could not store."""

from __future__ import annotations

from typing import cast

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.service.context import ServiceContext
from engine.service.paging import Page, ParameterError, Query, answer_page, bad_parameter

__all__ = ["list_dead_letters"]

_COLUMNS = (
    "dead_letter_id",
    "model",
    "record_id",
    "original_record",
    "error_type",
    "error_message",
    "failed_at",
    "source",
    "status",
)


async def list_dead_letters(request: Request) -> Response:
    """Answer one page, newest last, filtered by `model`, `id` (repeatable) and `status`.

    They hold records, so they are behind the consumption key.
    """
    context = cast(ServiceContext, request.app.state.context)
    if not await context.consumption_key.allows(request.headers.get("authorization")):
        return PlainTextResponse("Unauthorized: Invalid or missing token", 401)
    parameters = request.query_params
    query = Query(lambda _: "_odw_dead_letters", _COLUMNS, "commit_sequence, batch_index, dead_letter_id")
    try:
        page = Page.of(parameters)
        if status := parameters.get("status"):
            if status not in ("open", "recovered"):
                raise ParameterError("status must be open or recovered")
            query.where("status = ?", status)
    except ParameterError as error:
        return bad_parameter(error)
    if model := parameters.get("model"):
        query.where("lower(model) = lower(?)", model)
    if ids := parameters.getlist("id"):
        query.where(
            "(record_id IN (SELECT unnest(?::VARCHAR[])) OR dead_letter_id IN (SELECT unnest(?::VARCHAR[])))",
            ids,
            ids,
        )
    return await answer_page(context, query, page, _item)


def _item(row: dict[str, object]) -> dict[str, object]:
    # spliced in as it is kept: to parse it would alter what JSON allows and Python's parsers do not keep
    return {**row, "original_record": orjson.Fragment(cast(str, row["original_record"]))}
