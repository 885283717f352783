"""`GET /consumption/<name>` and `/api/<name>`: the tables, page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine.service.columns import AS_TEXT, JSON, Column
from engine.service.context import ServiceContext
from engine.service.paging import Page, ParameterError, Query, answer_page, bad_parameter, parse_count
from engine.service.reading_routes import EVENTS, OF_EVERY_ROUTE, PAGE_VIEWS, ConsumptionQuery
from engine.service.routing import READS, not_allowed
from engine.service.storage import Reader
from engine.service.tables import SEQUENCE, Table, quote
from engine.service.workflows import trigger

MAX_DAYS = 100_000
_VIEW_COLUMNS = ("view_date", "total_pageviews", "unique_visitors")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_EXACT_URI = "source_uri"


async def consume(request: Request, context: ServiceContext) -> Response:
    """Answer one page, or start a run; unknown parameters are ignored."""
    name, _, version = request.path_params["path"].partition("/")
    if "/" in version:
        return _not_found(request)
    if context.host is not None and (known := context.host.parameters(name)) is not None:
        if request.method in ("GET", "POST"):
            return await trigger(request, context, context.host, name, known)
        return not_allowed("GET", "POST")
    if request.method == "POST":
        return not_allowed(*READS)
    tables, parameters = context.warehouse.tables, request.query_params
    spec = context.queries.get(name.lower())
    try:
        if name.lower() == PAGE_VIEWS.lower() and EVENTS in tables:
            query = _page_views(tables[EVENTS], parameters)
            return await answer_page(context, query, Page.of(parameters))
        if spec is None:
            return _not_found(request)
        table, page = tables[spec.table], Page.of(parameters)
        query = _query(spec, table, parameters)
        if parameters.get("order"):
            _read_through(query, spec, tables, parameters)
    except ParameterError as error:
        return bad_parameter(error)
    return await answer_page(context, query, page, _shape_of(table, as_text=spec.as_text))


def _not_found(request: Request) -> Response:
    if request.url.path.lower().startswith("/api/"):
        return JSONResponse({"error": "API not found", "path": request.url.path}, 404)
    return PlainTextResponse("Consumption API not found.", 404)


def _page_views(table: Table, parameters: QueryParams) -> Query:
    """Return the query of page views and visitors per day, newest first; `days_back` leaves out earlier days.

    It counts the current rows, without replaced ones. Raises ParameterError.
    """
    days = parse_count(parameters, "days_back")
    if days is not None and days > MAX_DAYS:
        raise ParameterError(f"days_back must be a whole number from 0 to {MAX_DAYS}")

    def source(reader: Reader) -> str:
        day = "CAST(TRY_CAST(timestamp AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS DATE)"
        counted = "count(*) AS total_pageviews, count(DISTINCT distinct_id) AS unique_visitors"
        return (
            f"(SELECT {day} AS view_date, {counted} FROM {reader.rows_of(table)} "  # noqa: S608 -- quoted
            f"WHERE event_name = 'pageview' AND {day} IS NOT NULL GROUP BY ALL)"
        )

    query = Query(source, _VIEW_COLUMNS, "view_date DESC")
    if days is not None:
        query.where("view_date >= CAST(now() AT TIME ZONE 'UTC' AS DATE) - CAST(? AS INTEGER)", days)
    return query


def _shape_of(table: Table, *, as_text: bool) -> Callable[[dict[str, object]], dict[str, object]] | None:
    """Return the conversion of columns that hold JSON as text."""
    names = [column.name for column in table.columns if column.sql_type == JSON]
    if not names or as_text:
        return None

    def shape(row: dict[str, object]) -> dict[str, object]:
        parsed = {name: orjson.Fragment(cast(str, row[name])) for name in names if row.get(name) is not None}
        return {**row, **parsed}

    return shape


def _query(spec: ConsumptionQuery, table: Table, parameters: QueryParams) -> Query:
    names = table.names
    newest = next((name for name in spec.newest if name in (*names, SEQUENCE)), None)
    order = [f"{quote(newest)} DESC NULLS LAST"] if newest else []
    order.append(quote(names[0]))
    query = Query(lambda reader: reader.rows_of(table), _columns(spec, names), ", ".join(order))
    if ids := parameters.getlist("id"):
        if names[0] != "id":
            raise ParameterError("cannot filter by id: the rows of this table have none")
        _filter(query, table, "id", ids)
    for name in spec.equal:
        if name in names and (value := parameters.get(name)):
            _filter(query, table, name, [value])
    for name in spec.contains:
        if name in names and (value := parameters.get(name)):
            query.where(f"contains(lower(CAST({quote(name)} AS VARCHAR)), lower(?))", value)
    return query


def _filter(query: Query, table: Table, name: str, values: Iterable[str]) -> None:
    """Keep the rows whose column has one of the values, in any spelling."""
    column = next(one for one in table.columns if one.name == name)
    asked = [_as_answered(column, value) for value in values]
    if column.asked is None and column.compared != AS_TEXT:
        stored, sent = (column.compared.format(text) for text in (quote(name), "asked"))
        query.where(f"{stored} IN (SELECT {sent} FROM (SELECT unnest(?::VARCHAR[]) AS asked))", asked)  # noqa: S608
    elif len(asked) == 1:  # a subquery would cost more
        query.where(f"{_text_of(column)} = ?", asked[0])
    else:
        query.where(f"{_text_of(column)} IN (SELECT unnest(?::VARCHAR[]))", asked)


def _text_of(column: Column) -> str:
    """Return SQL for a column as its text in an answer."""
    name = quote(column.name)
    if column.sql_type == "TIMESTAMP":
        return f"replace(strftime({name}, '%Y-%m-%dT%H:%M:%S.%f+00:00'), '.000000+', '+')"
    return f"CAST({name} AS VARCHAR)"


def _as_answered(column: Column, value: str) -> str:
    """Return a requested value, such as a moment in any zone, as an answer writes it."""
    if column.asked is not None:
        return column.asked(value)
    if column.sql_type == "BOOLEAN":
        return value.lower()
    if column.sql_type == "BIGINT":
        return str(int(value)) if _INTEGER.fullmatch(value) else value
    if column.sql_type != "TIMESTAMP":
        return value
    # an unencoded plus arrives as a blank
    for text in (value, "+".join(value.rsplit(" ", 1))):
        try:
            moment = datetime.fromisoformat(text)
            return (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
        except (ValueError, OverflowError):
            continue
    return value


def _columns(spec: ConsumptionQuery, names: Iterable[str]) -> list[str]:
    return [column for name in names for column in _selected(spec, name)]


def _selected(spec: ConsumptionQuery, name: str) -> list[str]:
    column = quote(name)
    if name == spec.openable:
        opened = f"regexp_replace({column}, '^minio://', 's3://') AS {column}"
        return [opened, f"{column} AS {_EXACT_URI}"]
    return [f"CAST({column} AS VARCHAR) AS {column}" if spec.as_text else column]


def _read_through(
    query: Query, spec: ConsumptionQuery, tables: Mapping[str, Table], parameters: QueryParams
) -> None:
    """Change a query to `order=id`. Raises ParameterError."""
    table = tables[spec.table]
    if parameters["order"] != "id" or table.key is None:
        raise ParameterError("order must be id, and only for tables with ids")
    known = {*OF_EVERY_ROUTE, *spec.equal, *spec.contains}
    if unknown := sorted(set(parameters) - known):
        raise ParameterError(f"unknown parameters: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    # by the text of the id, whatever its type, since clients compare texts
    column = table.columns[0]
    key = quote(table.key) if column.sql_type == "VARCHAR" else _text_of(column)
    query.order = key
    if after := parameters.get("after"):
        query.where(f"{key} > ?", _as_answered(column, after))
    if other := parameters.get("without"):
        if other not in tables or tables[other].key is None:
            raise ParameterError(f"without must name a table with ids, got {other}")
        # duplicate ids do not matter, so no deduplication is needed
        ids = f"SELECT CAST({quote(tables[other].names[0])} AS VARCHAR) FROM {quote(other)}"  # noqa: S608 -- quoted
        query.where(f"{key} NOT IN ({ids})")
    if wanted := parameters.get("fields"):
        names = wanted.split(",")
        if missing := [name for name in names if name not in table.names]:
            raise ParameterError(f"unknown columns in fields: {', '.join(missing)}")
        query.columns = _columns(spec, names)
