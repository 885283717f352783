"""`GET /consumption/<name>` and `/api/<name>`: the tables, page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine.service.columns import AS_TEXT, JSON, Column
from engine.service.page_views import page_views
from engine.service.paging import Page, ParameterError, Query, answer_page, bad_parameter
from engine.service.reading_routes import EVENTS, OF_EVERY_ROUTE, PAGE_VIEWS, ConsumptionQuery
from engine.service.routing import READS, not_allowed
from engine.service.tables import SEQUENCE, Table, quote
from engine.service.triggers import trigger

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["consume"]


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
    if name.lower() == PAGE_VIEWS.lower() and EVENTS in context.warehouse.tables:
        return await _consume_page_views(request, context)
    spec = context.queries.get(name.lower())
    if spec is None:
        return _not_found(request)
    table = context.warehouse.tables[spec.table]
    try:
        page = Page.of(request.query_params)
        query = _query(spec, table, request.query_params)
        if request.query_params.get("order"):
            _read_through(query, spec, context.warehouse.tables, request.query_params)
    except ParameterError as error:
        return bad_parameter(error)
    return await answer_page(context, query, page, _shape_of(table, as_text=spec.as_text))


def _not_found(request: Request) -> Response:
    if request.url.path.lower().startswith("/api/"):
        return JSONResponse({"error": "API not found", "path": request.url.path}, 404)
    return PlainTextResponse("Consumption API not found.", 404)


async def _consume_page_views(request: Request, context: ServiceContext) -> Response:
    try:
        query, page = page_views(context.warehouse.tables, request.query_params)
    except ParameterError as error:
        return bad_parameter(error)
    return await answer_page(context, query, page)


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
    column = _column_of(table, name)
    asked = [_as_answered(table, name, value) for value in values]
    if column.asked is None and column.compared != AS_TEXT:
        stored, sent = (column.compared.format(text) for text in (quote(name), "asked"))
        query.where(f"{stored} IN (SELECT {sent} FROM (SELECT unnest(?::VARCHAR[]) AS asked))", asked)  # noqa: S608
    elif len(asked) == 1:  # a subquery would cost more
        query.where(f"{_text_of(table, name)} = ?", asked[0])
    else:
        query.where(f"{_text_of(table, name)} IN (SELECT unnest(?::VARCHAR[]))", asked)


def _text_of(table: Table, name: str) -> str:
    """Return SQL for a column as its text in an answer."""
    column = quote(name)
    if _column_of(table, name).sql_type == "TIMESTAMP":
        return f"replace(strftime({column}, '%Y-%m-%dT%H:%M:%S.%f+00:00'), '.000000+', '+')"
    return f"CAST({column} AS VARCHAR)"


def _column_of(table: Table, name: str) -> Column:
    (column,) = (found for found in table.columns if found.name == name)
    return column


def _as_answered(table: Table, name: str, value: str) -> str:
    """Return a requested value, such as a moment in any zone, as an answer writes it."""
    column = _column_of(table, name)
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
    key = quote(table.key) if table.columns[0].sql_type == "VARCHAR" else _text_of(table, table.key)
    query.order = key
    if after := parameters.get("after"):
        query.where(f"{key} > ?", _as_answered(table, table.key, after))
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
