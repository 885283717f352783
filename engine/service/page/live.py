"""Server-sent events: once a second, the changed parts of a page as JSON of element id to HTML."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import anyio
import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from engine.service.context import ServiceContext
from engine.service.page.overview import overview_values
from engine.service.page.rendering import HEADERS, fragment
from engine.service.page.runs import run_values

MAX_VIEWERS = 32
_TICK = 1.0
_TICKS = 600  # browsers reconnect automatically


class SharedOverview:
    """The overview's values, computed once per tick for all viewers."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._looked_at = -math.inf
        self._values: dict[str, Any] = {}

    async def values(self, context: ServiceContext) -> dict[str, Any]:
        """See `overview_values`; at most a tick old."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= _TICK:
                self._values = await overview_values(context)
                self._looked_at = time.monotonic()
            return self._values


async def stream(request: Request, context: ServiceContext) -> Response:
    """Follow the overview, or the run `run`."""
    if context.viewers >= MAX_VIEWERS:
        return PlainTextResponse("Too many pages are watching", 503, {"Retry-After": "30"})
    run_id = request.query_params.get("run", "")
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _events(request, context, run_id), headers=headers, media_type="text/event-stream"
    )


async def _events(request: Request, context: ServiceContext, run_id: str) -> AsyncGenerator[bytes, None]:
    shown: dict[str, str] = {}
    context.viewers += 1
    try:
        yield b"retry: 2000\n\n"
        for _ in range(_TICKS):
            if context.is_stopping or not context.access.roles(request).read:
                return
            parts, is_over = await _parts(request, context, run_id)
            changed = {name: text for name, text in parts.items() if shown.get(name) != text}
            shown |= changed
            # a comment keeps the connection open, and fails once the browser has gone
            yield b"data: " + orjson.dumps(changed) + b"\n\n" if changed else b": \n\n"
            if is_over:
                yield b"event: end\ndata: {}\n\n"
                return
            await anyio.sleep(_TICK)
    finally:
        context.viewers -= 1


async def _parts(request: Request, context: ServiceContext, run_id: str) -> tuple[dict[str, str], bool]:
    if not run_id:
        overview = cast(SharedOverview, request.app.state.overview)
        values = await overview.values(context)
        names = ("figures", "rates", "recent", "causes")
        return {name: fragment(request, f"parts/{name}.html", **values) for name in names}, False
    values_of_run = await run_values(context, run_id)
    if values_of_run is None:
        return {}, True
    parts_of_run = ("run-figures", "run-graph", "run-rates", "run-splits", "run-stages")
    parts = {name: fragment(request, f"parts/{name}.html", **values_of_run) for name in parts_of_run}
    return parts, values_of_run["run"].state != "running"
