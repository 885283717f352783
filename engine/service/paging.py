"""Query strings of the reading routes, and answers of the form `{"items": [...], "total": n}`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import orjson
from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.service.storage import Reader
from engine.service.tables import number_of

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

_CHUNK = 2_000
_STREAM_TIMEOUT = 10.0
_RETRY_SOON = {"Retry-After": "1"}
_MAX_COUNT = 2**62 - 1  # the sum of limit and offset must fit into 64 bits, too
_MAX_DIGITS = 19


class ParameterError(ValueError):
    """A parameter of the query string is not valid; the message is the answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """`limit` rows (None: all) from `offset`."""

    limit: int | None
    offset: int

    @classmethod
    def of(cls, parameters: QueryParams) -> Page:
        """Parse `limit` and `offset`; empty counts as absent. Raises ParameterError."""
        return cls(parse_count(parameters, "limit"), parse_count(parameters, "offset") or 0)


def parse_count(parameters: QueryParams, name: str) -> int | None:
    """Parse a whole-number parameter; None when it is absent or empty. Raises ParameterError."""
    text = parameters.get(name)
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > _MAX_DIGITS or int(digits) > _MAX_COUNT:
        raise ParameterError(f"{name} must be a whole number from 0 to {_MAX_COUNT}")
    return int(digits)


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
        self._opened = ExitStack()
        self._source = ""
        self.total = 0

    def count(self) -> int:
        """Open the query, count all matches, and return the number of rows on the page."""
        self._reader = self._opened.enter_context(self._reading)
        query, page = self._query, self._page
        condition = f" WHERE {' AND '.join(query.conditions)}" if query.conditions else ""
        self._source = f"{query.source(self._reader)}{condition}"
        self.total = number_of(self._reader, f"SELECT count(*) FROM {self._source}", *query.values)  # noqa: S608
        rest = max(self.total - page.offset, 0)
        return rest if page.limit is None else min(rest, page.limit)

    def first(self) -> list[dict[str, object]]:
        """Fetch the first rows, after `count`."""
        query, page = self._query, self._page
        limit = f" LIMIT {page.limit}" if page.limit is not None else ""
        result = self._reader.execute(
            f"SELECT {', '.join(query.columns)} FROM {self._source} ORDER BY {query.order}"  # noqa: S608 -- quoted
            f"{limit} OFFSET {page.offset}",
            query.values,
        )
        self._names = [str(column[0]) for column in result.description or ()]
        self._fetch = lambda: result.fetchmany(_CHUNK)
        return self.more()

    def more(self) -> list[dict[str, object]]:
        """Fetch the next rows; none at the end."""
        return [dict(zip(self._names, row, strict=True)) for row in self._fetch()]

    def close(self) -> None:
        """End the read of the tables, if it has begun."""
        self._opened.close()


async def answer_page(
    context: ServiceContext,
    query: Query,
    page: Page,
    shape: Callable[[dict[str, object]], dict[str, object]] | None = None,
) -> Response:
    """Run the query and answer `{"items": [...], "total": n}`; long answers are streamed.

    `total` counts all matching rows, regardless of the page. `shape` converts every item. Answers 400 for a
    value that cannot be compared with its column, and 503 when memory is short or the maximum of long answers
    is in progress.
    """
    import duckdb

    cursor = _Cursor(context.warehouse.reading(), query, page)
    try:
        return await _answer(context, cursor, shape)
    except (duckdb.OutOfMemoryException, _NoStreamError):
        return PlainTextResponse(
            "Too many rows are being read; try again, or request fewer", 503, _RETRY_SOON
        )
    except (duckdb.DataError, duckdb.InvalidInputException, duckdb.BinderException):
        return PlainTextResponse("A parameter does not fit the type of its column", 400)


class _NoStreamError(Exception):
    """The maximum of long answers is in progress."""


async def _answer(
    context: ServiceContext, cursor: _Cursor, shape: Callable[[dict[str, object]], dict[str, object]] | None
) -> Response:
    def encode(rows: list[dict[str, object]]) -> bytes:
        items = rows if shape is None else [shape(row) for row in rows]
        return orjson.dumps(items, option=orjson.OPT_NAIVE_UTC)[1:-1]

    async with AsyncExitStack() as stack:
        stack.callback(cursor.close)
        is_long = await context.in_thread(cursor.count) > _CHUNK
        if is_long:
            with anyio.move_on_after(_STREAM_TIMEOUT) as waiting:
                await context.streams.acquire()
            if waiting.cancelled_caught:
                raise _NoStreamError
            stack.callback(context.streams.release)
        rows = await context.in_thread(cursor.first)
        head = b'{"items":[' + await context.in_thread(lambda: encode(rows))
        tail = b'],"total":%d}' % cursor.total
        if not is_long:
            return Response(head + tail, media_type="application/json")
        held = stack.pop_all()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield head
        while text := await context.in_thread(lambda: encode(cursor.more())):
            yield b"," + text
        yield tail

    content = stream()
    held.push_async_callback(content.aclose)
    return _HeldStream(content, held)


class _HeldStream(StreamingResponse):
    """A streamed answer that always releases its resources, even if it is not read to the end."""

    def __init__(self, content: AsyncIterator[bytes], held: AsyncExitStack) -> None:
        super().__init__(content, media_type="application/json")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        async with self._held:
            await super().__call__(scope, receive, send)


def bad_parameter(error: ParameterError) -> Response:
    """Return the answer to an invalid parameter."""
    return PlainTextResponse(str(error), 400)
