"""`/dead-letters`: list and close the records that the service could not store as rows."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.service.bodies import BodyError, read_body
from engine.service.context import ServiceContext
from engine.service.dead_letter_format import OF_IDS
from engine.service.paging import Page, ParameterError, Query, answer_page, bad_parameter
from engine.service.submission import AuditEntry, NotStoredError, Submission
from engine.service.tables import spelled_ids

_MAX_DISCARDED = 1_000
_MAX_REQUEST = 256 * 1024


class ClosedLetters(BaseModel):
    """Ids of dead letters to discard, or to mark as recovered, with a reason."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["discard"]}, {"required": ["recovered"]}]}
    )

    discard: list[str] = Field(default=[], max_length=_MAX_DISCARDED)
    recovered: list[str] = Field(default=[], max_length=_MAX_DISCARDED)
    reason: str = Field(min_length=1, max_length=2_000, pattern=r"\S")

    @model_validator(mode="after")
    def _names_some(self) -> ClosedLetters:
        if self.model_fields_set.isdisjoint(("discard", "recovered")):
            raise ValueError("without ids")
        return self


ORIGIN = ("pipeline", "run", "node")
"""Filters by equality with a dead letter's column."""

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
    "reason",
    *ORIGIN,
    "key",
)


async def list_dead_letters(request: Request, context: ServiceContext) -> Response:
    """Answer one page, newest last, filtered.

    By `model`, `status`, `pipeline`, `run`, `node`, and by `id` and `key`, which may be repeated.

    They contain records, so they require the consumption key.
    """
    parameters = request.query_params
    query = Query(lambda _: "_odw_dead_letters", _COLUMNS, "commit_sequence, batch_index, dead_letter_id")
    try:
        page = Page.of(parameters)
        if status := parameters.get("status"):
            if status not in ("open", "recovered", "discarded"):
                raise ParameterError("status must be open, recovered or discarded")
            query.where("status = ?", status)
    except ParameterError as error:
        return bad_parameter(error)
    if model := parameters.get("model"):
        query.where("lower(model) = lower(?)", model)
    if ids := parameters.getlist("id"):
        query.where(OF_IDS, ids, ids, *spelled_ids(context.warehouse.tables.values(), ids))
    for name in ORIGIN:
        if value := parameters.get(name):
            query.where(f"{name} = ?", value)
    if keys := parameters.getlist("key"):
        query.where("key IN (SELECT unnest(?::VARCHAR[]))", keys)
    return await answer_page(context, query, page, _item)


async def close_dead_letters(request: Request, context: ServiceContext) -> Response:
    """Close dead letters; requires the ingest key, since it changes data."""
    limits = replace(context.body_limits, max_size=_MAX_REQUEST)
    try:
        with context.accepted(), context.inflight.share() as share:
            body = await read_body(request, limits, share)
            wanted = ClosedLetters.model_validate_json(body)
            audit = [AuditEntry("API", "discarded", one, wanted.reason) for one in wanted.discard]
            audit += [AuditEntry("API", "recovered", one, wanted.reason) for one in wanted.recovered]
            discard = (wanted.discard, wanted.reason)
            await context.warehouse.write(
                Submission(discard=discard, recovered=wanted.recovered, audit=audit)
            )
    except BodyError as error:
        return PlainTextResponse(str(error), error.status)
    except ValidationError:
        text = f"Expected {{discard or recovered: [up to {_MAX_DISCARDED} ids], reason: a text}} as JSON"
        return PlainTextResponse(text, 400)
    except NotStoredError:
        return PlainTextResponse("The warehouse cannot be written now", 503, {"Retry-After": "1"})
    return PlainTextResponse("SUCCESS")


def _item(row: dict[str, object]) -> dict[str, object]:
    # inserted as stored: parsing would change values that JSON allows but Python's parsers do not preserve
    return {**row, "original_record": orjson.Fragment(cast(str, row["original_record"]))}
