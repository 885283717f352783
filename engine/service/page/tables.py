"""Tables and their rows, and the box for queries."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from engine.service.context import ServiceContext
from engine.service.page.rendering import address, cell_text, cut, problem, render
from engine.service.query import ask
from engine.service.sql import QueryError, QueryResult
from engine.service.storage import Reader
from engine.service.tables import SEQUENCE, Table, number_of, quote

PAGE = 50
QUERY_ROWS = 200


async def show_tables(request: Request, context: ServiceContext) -> Response:
    """Show all tables with their numbers of rows."""
    return render(request, "tables.html", tables=await context.read(partial(_tables, context)))


def _tables(context: ServiceContext, reader: Reader) -> list[tuple[str, int, list[str], list[str]]]:
    """Return (table, rows, columns, models stored in it)."""
    found = []
    for table in context.warehouse.tables.values():
        count = number_of(reader, f"SELECT count(*) FROM {reader.rows_of(table)}")  # noqa: S608 -- quoted
        models = [one.model.name for one in context.endpoints.values() if one.model.table == table.name]
        found.append((table.name, count, table.names, models))
    return sorted(found)


async def show_table(request: Request, context: ServiceContext) -> Response:
    """Show rows of one table, newest first."""
    table = context.warehouse.tables.get(request.path_params["name"])
    if table is None:
        return problem(request, "No table has this name.", 404)
    before = request.query_params.get("before", "")
    rows = await context.read(lambda reader: _rows(reader, table, before))
    last = f"{rows[PAGE - 1][0]}.{rows[PAGE - 1][1]}" if len(rows) > PAGE else ""
    more = address(request, f"/ui/tables/{table.name}", before=last) if last else ""
    values: dict[str, Any] = {"table": table, "rows": [_cells(row[2:]) for row in rows[:PAGE]], "more": more}
    return render(request, "table.html", is_later=bool(before), **values)


def _rows(reader: Reader, table: Table, before: str) -> list[tuple[Any, ...]]:
    """Return (sequence, tie-breaker, …) of a page, and one row more. Blocks."""
    sequence, _, tie = before.partition(".")
    key = f"CAST({quote(table.names[0])} AS VARCHAR)"
    if table.key is None and table.has_rowid:
        key = "lpad(CAST(rowid AS VARCHAR), 20, '0')"
    condition, values = "", list[Any]()
    if sequence.isascii() and sequence.isdigit() and len(sequence) < 19:
        condition, values = f"WHERE ({SEQUENCE}, {key}) < (?, ?)", [int(sequence), tie]
    columns = ", ".join(quote(name) for name in table.names)
    return reader.execute(
        f"SELECT {SEQUENCE}, {key}, {columns} FROM {reader.rows_of(table)} {condition} "  # noqa: S608 -- quoted
        f"ORDER BY {SEQUENCE} DESC, {key} DESC LIMIT {PAGE + 1}",
        values,
    ).fetchall()


def _cells(row: tuple[Any, ...]) -> list[str | None]:
    return [None if (text := cell_text(value)) is None else cut(text) for value in row]


async def show_query(request: Request, context: ServiceContext) -> Response:
    """Show the query form, with an example."""
    name = request.query_params.get("table", "")
    known = name if name in context.warehouse.tables else next(iter(context.warehouse.tables), "")
    sql = f"SELECT *\nFROM {quote(known)}\nLIMIT 20" if known else "SELECT 1"
    return _query_page(request, context, sql)


async def run(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Show the answer to a query."""
    sql = form.get("sql", "")
    try:
        return _query_page(request, context, sql, await ask(context, sql, QUERY_ROWS))
    except QueryError as error:
        return _query_page(request, context, sql, error=str(error), status=error.status)


def _query_page(
    request: Request,
    context: ServiceContext,
    sql: str,
    result: QueryResult | None = None,
    error: str = "",
    status: int = 200,
) -> Response:
    cells = [_cells(tuple(row)) for row in result.rows] if result is not None else []
    values: dict[str, Any] = {"sql": sql, "result": result, "cells": cells, "error": error}
    return render(request, "query.html", status, names=sorted(context.warehouse.tables), **values)
