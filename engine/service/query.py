"""`POST /sql` and `POST /snapshots`: SQL queries of the warehouse, here or in another process."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import StateError
from engine.service.bodies import BodyError, read_body
from engine.service.context import ServiceContext
from engine.service.query_process import answer_query
from engine.service.routing import answer
from engine.service.sql import MAX_ROWS, MAX_SQL, QueryError, QueryResult


class Question(BaseModel):
    """The body of `POST /sql`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sql: str = Field(min_length=1, max_length=MAX_SQL)
    limit: int = Field(1_000, ge=1, le=MAX_ROWS)


async def query_warehouse(request: Request, context: ServiceContext) -> Response:
    """Answer `{"sql": …, "limit": …}` with columns and rows; requires the consumption key."""
    limits = replace(context.body_limits, max_size=2 * MAX_SQL)
    try:
        with context.inflight.share() as share:
            body = await read_body(request, limits, share)
        question = Question.model_validate_json(body)
        found = await ask(context, question.sql, question.limit)
        return answer(found.to_json())
    except BodyError as error:
        return answer({"error": str(error)}, error.status)
    except ValidationError as error:
        return answer({"error": _in_words(error)}, 400)
    except QueryError as error:
        return answer({"error": str(error)}, error.status)


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = "".join(f"{name}: " for name in first["loc"])
    return f"Expected {{sql: a query, limit: 1 to {MAX_ROWS}}} as JSON: {where}{first['msg']}"


async def ask(context: ServiceContext, sql: str, limit: int) -> QueryResult:
    """Run a query in a worker thread, within the limit of concurrent queries. Raises QueryError."""
    try:
        return await context.querying(
            lambda: answer_query(context.warehouse, sql, limit, context.query_limits)
        )
    except StateError as error:
        raise QueryError("The warehouse cannot be read now", 503) from error


async def take_snapshot(request: Request, context: ServiceContext) -> Response:
    """Copy the warehouse into a file that other processes can open; requires the consumption key."""
    try:
        path = await context.querying(context.warehouse.snapshot)
    except StateError:
        return answer({"error": "The snapshot could not be written"}, 503)
    return answer({"file": str(path), "bytes": path.stat().st_size})
