"""`GET /consumption/<name>`: the tables, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.service.context import ServiceContext
from engine.service.paging import Page, ParameterError, Query, answer_page, bad_parameter
from engine.service.tables import Table, quote

__all__ = ["QUERIES", "ConsumptionQuery", "consume"]


@dataclass(frozen=True, slots=True)
class ConsumptionQuery:
    """One reading route over `table`.

    Newest first by the first of the `newest` columns that the table has, then by id, so that pages never
    overlap. `equal` are columns that a parameter of the same name must equal, `contains` those it must be
    found in, ignoring case. `as_text` answers every column as a string. A repeated `id` parameter filters
    by ids on every route.
    """

    name: str
    table: str
    newest: tuple[str, ...] = ("transform_timestamp",)
    equal: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    as_text: bool = False


QUERIES = (
    ConsumptionQuery("getBlobs", "Blob"),
    ConsumptionQuery("getLogs", "Log", equal=("level", "source", "trace_id")),
    ConsumptionQuery("getEvents", "Event", equal=("event_name", "project_id", "distinct_id")),
    ConsumptionQuery(
        "getMedical",
        "Medical",
        contains=(
            "patient_name",
            "patient_age",
            "phone_number",
            "scheduled_appointment_date",
            "dental_procedure_name",
            "doctor",
            "source_file_path",
        ),
        as_text=True,
    ),
    ConsumptionQuery("getUnstructuredData", "UnstructuredData", contains=("source_file_path",)),
)
"""What is served, for those tables that exist."""

_BY_NAME = {query.name.lower(): query for query in QUERIES}


async def consume(request: Request) -> Response:
    """One page; unknown parameters are ignored."""
    context = cast(ServiceContext, request.app.state.context)
    if not context.consumption_key.allows(request.headers.get("authorization")):
        return PlainTextResponse("Unauthorized: Invalid or missing token", 401)
    spec = _BY_NAME.get(request.path_params["name"].lower())
    table = context.warehouse.tables.get(spec.table) if spec is not None else None
    if spec is None or table is None:
        return PlainTextResponse("Consumption API not found.", 404)
    try:
        page = Page.of(request.query_params)
    except ParameterError as error:
        return bad_parameter(error)
    return await answer_page(context, _query(spec, table, request.query_params), page)


def _query(spec: ConsumptionQuery, table: Table, parameters: QueryParams) -> Query:
    names = table.names
    columns = [quote(name) for name in names]
    if spec.as_text:
        columns = [f"CAST({column} AS VARCHAR) AS {column}" for column in columns]
    newest = next((name for name in spec.newest if name in names), None)
    order = [f"{quote(newest)} DESC NULLS LAST"] if newest else []
    order.append(quote(names[0]))
    query = Query(lambda reader: reader.rows_of(table), columns, ", ".join(order))
    if ids := parameters.getlist("id"):
        query.where(f"CAST({quote(names[0])} AS VARCHAR) IN (SELECT unnest(?::VARCHAR[]))", ids)
    for name in spec.equal:
        if name in names and (value := parameters.get(name)):
            query.where(f"CAST({quote(name)} AS VARCHAR) = ?", value)
    for name in spec.contains:
        if name in names and (value := parameters.get(name)):
            query.where(f"contains(lower(CAST({quote(name)} AS VARCHAR)), lower(?))", value)
    return query
