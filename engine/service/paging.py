"""Query strings of the reading routes, and answers of the shape `{"items": [...], "total": n}`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from engine.service.storage import Reader

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["Page", "ParameterError", "Query", "answer_page"]

_CHUNK = 2_000
_MAX_INT = 2**63 - 1


class ParameterError(ValueError):
    """A parameter of the query string is wrong; the text is the answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """`limit` rows (None: all) from `offset`."""

    limit: int | None
    offset: int

    @classmethod
    def of(cls, parameters: QueryParams) -> Page:
        """From `limit` and `offset`; empty counts as absent. Raises ParameterError."""
        return cls(_count(parameters, "limit"), _count(parameters, "offset") or 0)


def _count(parameters: QueryParams, name: str) -> int | None:
    text = parameters.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text[:30]) > _MAX_INT:
        raise ParameterError(f"{name} must be a whole number, 0 or more")
    return int(text)


@dataclass(slots=True)
class Query:
    """A SELECT over `source` (SQL that gives rows); conditions are joined by AND, with `?` for values."""

    source: Callable[[Reader], str]
    columns: Sequence[str]
    order: str
    conditions: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    def where(self, condition: str, *values: object) -> None:
        """Add a condition."""
        self.conditions.append(condition)
        self.values += values


class _Cursor:
    """A query in progress, in worker threads one after another."""

    def __init__(self, reading: AbstractContextManager[Reader], query: Query, page: Page) -> None:
        self._reading = reading
        self._query = query
        self._page = page
        self._fetch: Callable[[], list[tuple[object, ...]]] = list
        self._names: list[str] = []
        self.total = 0

    def first(self) -> list[dict[str, object]]:
        """Open, count and fetch the first rows."""
        reader = self._reading.__enter__()
        query, page = self._query, self._page
        condition = f" WHERE {' AND '.join(query.conditions)}" if query.conditions else ""
        source = f"{query.source(reader)}{condition}"
        found = reader.execute(f"SELECT count(*) FROM {source}", query.values).fetchone()  # noqa: S608
        self.total = int(found[0]) if found else 0
        limit = f" LIMIT {page.limit}" if page.limit is not None else ""
        result = reader.execute(
            f"SELECT {', '.join(query.columns)} FROM {source} ORDER BY {query.order}"  # noqa: S608 -- quoted
            f"{limit} OFFSET {page.offset}",
            query.values,
        )
        self._names = [str(column[0]) for column in result.description or ()]
        self._fetch = lambda: result.fetchmany(_CHUNK)
        return self.more()

    def more(self) -> list[dict[str, object]]:
        """The next rows, none at the end."""
        return [dict(zip(self._names, row, strict=True)) for row in self._fetch()]

    def close(self) -> None:
        self._reading.__exit__(None, None, None)


async def answer_page(
    context: ServiceContext,
    query: Query,
    page: Page,
    shape: Callable[[dict[str, object]], dict[str, object]] | None = None,
) -> Response:
    """Run the query and answer `{"items": [...], "total": n}`; long answers are streamed.

    `total` counts all rows that match, whatever the page. `shape` changes every item.
    """
    cursor = _Cursor(context.warehouse.reading(), query, page)

    def encode(rows: list[dict[str, object]]) -> bytes:
        items = rows if shape is None else [shape(row) for row in rows]
        return orjson.dumps(items, option=orjson.OPT_NAIVE_UTC)[1:-1]

    is_handed_over = False
    try:
        rows = await context.in_thread(cursor.first)
        head = b'{"items":[' + await context.in_thread(lambda: encode(rows))
        tail = b'],"total":%d}' % cursor.total
        if len(rows) < _CHUNK:
            return Response(head + tail, media_type="application/json")
        is_handed_over = True
    finally:
        if not is_handed_over:
            cursor.close()

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield head
            while text := await context.in_thread(lambda: encode(cursor.more())):
                yield b"," + text
            yield tail
        finally:
            cursor.close()

    return StreamingResponse(stream(), media_type="application/json")


def bad_parameter(error: ParameterError) -> Response:
    """The answer to a wrong parameter."""
    return PlainTextResponse(str(error), 400)
