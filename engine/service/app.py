"""The HTTP application; `server` gives it a socket."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine.service.consumption import consume
from engine.service.context import ServiceContext
from engine.service.dead_letters import close_dead_letters, list_dead_letters
from engine.service.delivery_counts import count_deliveries
from engine.service.guard import Guard
from engine.service.ingest import ingest
from engine.service.metrics import show_metrics
from engine.service.models import IngestModel
from engine.service.openapi import openapi_of
from engine.service.operations import Operations, OperationsError
from engine.service.page.live import SharedOverview
from engine.service.page.overview import show_overview
from engine.service.page.routes import page_routes, problem, wants_html
from engine.service.query import query_warehouse, take_snapshot
from engine.service.runs import RunHost
from engine.service.settings import ServiceSettings
from engine.service.storage import Reader
from engine.service.warehouse import Warehouse
from engine.service.workflows import administrate, list_workflows

__all__ = ["create_app"]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(
    warehouse: Warehouse,
    models: Iterable[IngestModel],
    settings: ServiceSettings | None = None,
    host: RunHost | None = None,
    operations: Operations | None = None,
) -> Starlette:
    """Create the service over an open warehouse, which the caller closes.

    `host` starts runs on request; without it there are none. `operations` lets the page show and control
    runs. `models` must be those that the warehouse was opened with. `app.state.context.is_stopping = True`
    makes it reject new work with 503.
    """
    settings = settings or ServiceSettings()
    app = Starlette(
        routes=[
            Route("/ingest/{path:path}", _ingest_route, methods=_METHODS),
            Route("/consumption/{path:path}", _reading_route, methods=_METHODS),
            Route("/api/{path:path}", _reading_route, methods=_METHODS),
            Route("/workflows/list", _workflows_route, methods=_METHODS),
            Route("/admin/workflows/{path:path}", administrate, methods=_METHODS),
            Route("/dead-letters", _letters_route, methods=_METHODS),
            Route("/deliveries", _deliveries_route, methods=_METHODS),
            Route("/sql", _sql_route, methods=_METHODS),
            Route("/snapshots", _snapshots_route, methods=_METHODS),
            Route("/metrics", _metrics_route, methods=_METHODS),
            Route("/openapi.json", _openapi_route, methods=_METHODS),
            Route("/", _status_route, methods=_METHODS),
            *page_routes(),
            Route("/health", _health, methods=_METHODS),
            Route("/ready", _health, methods=_METHODS),
            Route("/liveness", _liveness, methods=_METHODS),
        ],
        middleware=[Middleware(Guard, settings)],
        exception_handlers={404: _not_found, OperationsError: _not_ready},
    )
    app.router.redirect_slashes = False  # a redirect would use the host that the client sent
    app.state.overview = SharedOverview()
    app.state.context = ServiceContext(warehouse, models, settings, host, operations)
    return app


async def _ingest_route(request: Request) -> Response:
    if request.method == "POST":
        return await ingest(request)
    return _other_method(request, "POST, OPTIONS")


async def _reading_route(request: Request) -> Response:
    if request.method in (*_READS, "POST"):
        return await consume(request)
    return _other_method(request, _ALLOW_READ)


async def _metrics_route(request: Request) -> Response:
    return await show_metrics(request) if request.method in _READS else _other_method(request, _ALLOW_READ)


async def _openapi_route(request: Request) -> Response:
    if request.method not in _READS:
        return _other_method(request, _ALLOW_READ)
    context: ServiceContext = request.app.state.context
    return Response(orjson.dumps(openapi_of(context)), media_type="application/json")


async def _status_route(request: Request) -> Response:
    if request.method == "GET" and wants_html(request):
        return await show_overview(request)
    if request.method not in _READS:
        return _other_method(request, _ALLOW_READ)
    context: ServiceContext = request.app.state.context
    models = [endpoint.model.name for endpoint in context.endpoints.values()]
    reads = sorted({query.name for query in context.queries.values()})
    status = "stopping" if context.is_stopping else "ready" if context.takes_records else "busy"
    return JSONResponse({"service": "odw-engine", "status": status, "ingest": models, "consumption": reads})


async def _workflows_route(request: Request) -> Response:
    return await list_workflows(request) if request.method in _READS else _other_method(request, _ALLOW_READ)


async def _letters_route(request: Request) -> Response:
    if request.method == "POST":
        return await close_dead_letters(request)
    allow = "GET, HEAD, POST, OPTIONS"
    return await list_dead_letters(request) if request.method in _READS else _other_method(request, allow)


async def _deliveries_route(request: Request) -> Response:
    return (
        await count_deliveries(request) if request.method in _READS else _other_method(request, _ALLOW_READ)
    )


async def _sql_route(request: Request) -> Response:
    return await query_warehouse(request) if request.method == "POST" else _other_method(request, _ALLOW_POST)


async def _snapshots_route(request: Request) -> Response:
    return await take_snapshot(request) if request.method == "POST" else _other_method(request, _ALLOW_POST)


_READS = ("GET", "HEAD")
_ALLOW_POST = "POST, OPTIONS"
_ALLOW_READ = "GET, HEAD, OPTIONS"


def _other_method(request: Request, allow: str) -> Response:
    if request.method == "OPTIONS":
        return Response(status_code=200, headers={"Allow": allow})
    return PlainTextResponse("Method not allowed", 405, {"Allow": allow})


async def _not_ready(request: Request, error: Exception) -> Response:
    return problem(request, str(error), 503)


async def _not_found(request: Request, _: Exception) -> Response:
    if request.method == "OPTIONS":
        return Response(status_code=200)
    return PlainTextResponse("Not found", 404)


async def _health(request: Request) -> Response:
    if request.method not in _READS:
        return _other_method(request, _ALLOW_READ)
    context: ServiceContext = request.app.state.context
    healthy: list[str] = []
    unhealthy: list[str] = []
    (healthy if context.takes_records else unhealthy).append("Ingest API")
    (healthy if await _can_read(context) else unhealthy).append("Consumption API")
    return JSONResponse({"healthy": healthy, "unhealthy": unhealthy}, 503 if unhealthy else 200)


async def _can_read(context: ServiceContext) -> bool:
    import duckdb

    from engine.errors import StateError

    def look() -> None:
        with context.warehouse.reading() as reader:
            _probe(reader)

    try:
        await context.in_thread(look)
    except (duckdb.Error, StateError):
        return False
    return True


def _probe(reader: Reader) -> None:
    reader.execute("SELECT count(*) FROM _odw_meta").fetchone()


async def _liveness(request: Request) -> Response:
    if request.method not in _READS:
        return _other_method(request, _ALLOW_READ)
    return JSONResponse({"healthy": ["Service"], "unhealthy": []})
