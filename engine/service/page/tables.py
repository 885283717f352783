"""Tables and their rows, and the box for queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from engine.service.page.rendering import address, cell_text, cut, render
from engine.service.query import ask
from engine.service.sql import QueryError, QueryResult
from engine.service.tables import SEQUENCE, Table, quote

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["run", "show_query", "show_table", "show_tables"]

PAGE = 50
QUERY_ROWS = 200


async def show_tables(request: Request) -> Response:
    """Show all tables with their numbers of rows."""
    context = cast("ServiceContext", request.app.state.context)
    return render(request, "tables.html", tables=await context.in_thread(lambda: _tables(context)))


def _tables(context: ServiceContext) -> list[tuple[str, int, list[str], list[str]]]:
    """Return (table, rows, columns, models stored in it)."""
    found = []
    with context.warehouse.reading() as reader:
        for table in context.warehouse.tables.values():
            row = reader.execute(f"SELECT count(*) FROM {reader.rows_of(table)}").fetchone()  # noqa: S608 -- quoted
            models = [one.model.name for one in context.endpoints.values() if one.model.table == table.name]
            found.append((table.name, int(row[0]) if row else 0, table.names, models))
    return sorted(found)


async def show_table(request: Request) -> Response:
    """Show rows of one table, newest first."""
    context = cast("ServiceContext", request.app.state.context)
    table = context.warehouse.tables.get(request.path_params["name"])
    if table is None:
        return render(request, "problem.html", 404, text="No table has this name.", status_code=404)
    before = request.query_params.get("before", "")
    rows = await context.in_thread(lambda: _rows(context, table, before))
    last = f"{rows[PAGE - 1][0]}.{rows[PAGE - 1][1]}" if len(rows) > PAGE else ""
    more = address(request, f"/ui/tables/{table.name}", before=last) if last else ""
    values: dict[str, Any] = {"table": table, "rows": [_cells(row[2:]) for row in rows[:PAGE]], "more": more}
    return render(request, "table.html", is_later=bool(before), **values)


def _rows(context: ServiceContext, table: Table, before: str) -> list[tuple[Any, ...]]:
    """Return (sequence, tie-breaker, …) of a page, and one row more. Blocks."""
    sequence, _, tie = before.partition(".")
    key = f"CAST({quote(table.names[0])} AS VARCHAR)"
    if table.key is None and table.has_rowid:
        key = "lpad(CAST(rowid AS VARCHAR), 20, '0')"
    condition, values = "", list[Any]()
    if sequence.isascii() and sequence.isdigit() and len(sequence) < 19:
        condition, values = f"WHERE ({SEQUENCE}, {key}) < (?, ?)", [int(sequence), tie]
    columns = ", ".join(quote(name) for name in table.names)
    with context.warehouse.reading() as reader:
        return reader.execute(
            f"SELECT {SEQUENCE}, {key}, {columns} FROM {reader.rows_of(table)} {condition} "  # noqa: S608 -- quoted
            f"ORDER BY {SEQUENCE} DESC, {key} DESC LIMIT {PAGE + 1}",
            values,
        ).fetchall()


def _cells(row: tuple[Any, ...]) -> list[str | None]:
    return [None if (text := cell_text(value)) is None else cut(text) for value in row]


async def show_query(request: Request) -> Response:
    """Show the query form, with an example."""
    context = cast("ServiceContext", request.app.state.context)
    name = request.query_params.get("table", "")
    known = name if name in context.warehouse.tables else next(iter(context.warehouse.tables), "")
    sql = f"SELECT *\nFROM {quote(known)}\nLIMIT 20" if known else "SELECT 1"
    return render(
        request,
        "query.html",
        sql=sql,
        result=None,
        cells=[],
        error="",
        names=sorted(context.warehouse.tables),
    )


async def run(request: Request, form: dict[str, str]) -> Response:
    """Show the answer to a query."""
    context = cast("ServiceContext", request.app.state.context)
    sql = form.get("sql", "")
    result: QueryResult | None = None
    error, status = "", 200
    try:
        result = await ask(context, sql, QUERY_ROWS)
    except QueryError as problem:
        error, status = str(problem), problem.status
    cells = [_cells(tuple(row)) for row in result.rows] if result is not None else []
    values: dict[str, Any] = {"sql": sql, "result": result, "cells": cells, "error": error}
    return render(request, "query.html", status, names=sorted(context.warehouse.tables), **values)
