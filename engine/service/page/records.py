"""One record's way: its row, the request and run that brought it, model calls, or where it died."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from engine.service.operations import CallView, LetterView, LetterWhere, NodeView
from engine.service.page import charts, letters
from engine.service.page.rendering import render
from engine.service.tables import SEQUENCE, Table, quote

if TYPE_CHECKING:
    from engine.service.context import ServiceContext
    from engine.service.storage import Reader

__all__ = ["show_record"]

_MAX_NAME = 500
_PATH = "source_file_path"


@dataclass(slots=True)
class _Row:
    """A row, and the request that brought it where that is remembered."""

    table: str
    cells: list[tuple[str, str]]
    committed_at: datetime | None = None
    run_id: str = ""
    node: str = ""
    source: str = ""
    nodes: list[NodeView] = field(default_factory=list)
    calls: list[CallView] = field(default_factory=list)

    @property
    def graph(self) -> Any:
        """The nodes of its run."""
        return charts.graph(self.nodes)


async def show_record(request: Request) -> Response:
    """Everything that is known of a record by its id or its key."""
    context = cast("ServiceContext", request.app.state.context)
    name = request.query_params.get("id", "").strip()[:_MAX_NAME]
    rows: list[_Row] = []
    own: list[letters.ServiceLetter] = []
    ours: list[LetterView] = []
    if name:
        rows, own = await context.in_thread(lambda: _look(context, name))
        rows.sort(key=lambda row: (row.committed_at is not None, row.committed_at))
        for row in rows:
            await _follow(context, row)
        for earlier, later in pairwise(rows):  # one way: the model is asked between the rows
            earlier.calls = []
            if later.run_id == earlier.run_id:
                later.nodes, later.source = [], ""
        if context.operations is not None:
            ours = await context.operations.letters(LetterWhere(status="", key=name, limit=20))
    return render(request, "record.html", name=name, rows=rows, own=own, ours=ours)


def _look(context: ServiceContext, name: str) -> tuple[list[_Row], list[letters.ServiceLetter]]:
    with context.warehouse.reading() as reader:
        rows = [row for table in context.warehouse.tables.values() if (row := _row(reader, table, name))]
        ids = reader.execute(
            "SELECT dead_letter_id FROM _odw_dead_letters WHERE record_id = ? OR dead_letter_id = ? LIMIT 20",
            [name, name],
        ).fetchall()
        found = [letters.letter_of_id(reader, letter_id) for (letter_id,) in ids]
        return rows, [one for one in found if one is not None]


def _row(reader: Reader, table: Table, name: str) -> _Row | None:
    if table.names[0] != "id":
        return None
    columns = ", ".join(quote(column) for column in table.names)
    found = reader.execute(
        f"SELECT {SEQUENCE}, {columns} FROM {quote(table.name)} WHERE CAST(id AS VARCHAR) = ? "  # noqa: S608 -- quoted
        f"ORDER BY {SEQUENCE} DESC LIMIT 1",
        [name],
    ).fetchone()
    if found is None:
        return None
    cells = [
        (column, "" if value is None else str(value)[:400])
        for column, value in zip(table.names, found[1:], strict=True)
    ]
    row = _Row(table.name, cells, source=dict(cells).get(_PATH, ""))
    request = reader.execute(
        "SELECT committed_at, scope FROM _odw_batches WHERE sequence = ? LIMIT 1", [found[0]]
    ).fetchone()
    if request is not None:
        row.committed_at = request[0]
        run_id, _, node = str(request[1] or "").partition("#")[0].partition("/")
        row.run_id, row.node = run_id, node
    return row


async def _follow(context: ServiceContext, row: _Row) -> None:
    """The run of a row, and what a model was asked for it."""
    if context.operations is None or not row.run_id:
        return
    detail = await context.operations.detail(row.run_id)
    if detail is None:
        return
    row.nodes = list(detail.nodes)
    if row.source:
        row.calls = await context.operations.calls(row.run_id, row.source.partition("://")[2])
