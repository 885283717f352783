"""`GET /deliveries`: count a client's deliveries by scope."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.service.accounts import Account, account_of
from engine.service.context import Endpoint, ServiceContext
from engine.service.routing import answer
from engine.service.storage import Reader
from engine.service.submission import WarehouseDownError
from engine.service.tables import SEQUENCE, number_of, quote

_TRIES = 3
_RETRY_SOON = {"Retry-After": "1"}


async def count_deliveries(request: Request, context: ServiceContext) -> Response:
    """Answer the counts of one `model` and `scope`; requires the ingest key.

    Without a scope, answers only `newest`, the latest commit sequence in the model's table.
    """
    endpoint = context.endpoints.get(request.query_params.get("model", "").lower())
    scope = request.query_params.get("scope", "")
    if endpoint is None:
        return PlainTextResponse("model must be a served model", 400)
    try:
        if not scope:
            newest = await context.read(lambda reader: _newest(reader, endpoint))
            return answer({"newest": newest})
        account = await context.in_thread(lambda: _account(context, endpoint, scope))
    except WarehouseDownError as error:
        return PlainTextResponse(f"Error: {error}", 503, _RETRY_SOON)
    if account is None:
        return PlainTextResponse("The table is being written to; try again", 503, _RETRY_SOON)
    counts = {**asdict(account), "remembered_days": context.settings.ledger_days}
    body = orjson.dumps(counts, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
    return Response(body, media_type="application/json")


def _account(context: ServiceContext, endpoint: Endpoint, scope: str) -> Account | None:
    """Return the counts; None if the table did not stay clean until counting began."""
    for _ in range(_TRIES):
        with context.warehouse.reading() as reader:
            if endpoint.table is None or not reader.is_dirty(endpoint.table):
                return account_of(reader, endpoint.model.name, endpoint.table, scope)
        context.warehouse.compact()
    return None


def _newest(reader: Reader, endpoint: Endpoint) -> int:
    if endpoint.table is None:
        return 0
    sql = f"SELECT coalesce(max({SEQUENCE}), 0) FROM {quote(endpoint.table.name)}"  # noqa: S608 -- quoted
    return number_of(reader, sql)
