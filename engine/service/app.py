"""The HTTP application; `server` gives it a socket."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine.service.consumption import consume
from engine.service.context import ServiceContext
from engine.service.dead_letters import close_dead_letters, list_dead_letters
from engine.service.delivery_counts import count_deliveries
from engine.service.guard import Guard
from engine.service.ingest import ingest
from engine.service.metrics import show_metrics
from engine.service.models import IngestModel
from engine.service.openapi import openapi_of
from engine.service.operations import Operations, OperationsError, RunHost
from engine.service.page.live import SharedOverview
from engine.service.page.overview import show_overview
from engine.service.page.rendering import problem
from engine.service.page.routes import page_routes, wants_html
from engine.service.query import query_warehouse, take_snapshot
from engine.service.routing import answer, needing, route
from engine.service.settings import ServiceSettings
from engine.service.warehouse import Warehouse
from engine.service.workflows import administrate, list_workflows


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
    reading, writing = partial(needing, "consumption_key"), partial(needing, "ingest_key")
    rows, admin = reading(consume), needing("admin_key", administrate)
    app = Starlette(
        routes=[
            route("/ingest/{path:path}", post=writing(ingest)),
            route("/consumption/{path:path}", read=rows, post=rows),
            route("/api/{path:path}", read=rows, post=rows),
            route("/workflows/list", read=reading(list_workflows)),
            route("/admin/workflows/{path:path}", read=admin, post=admin),
            route("/dead-letters", read=reading(list_dead_letters), post=writing(close_dead_letters)),
            route("/deliveries", read=writing(count_deliveries)),
            route("/sql", post=reading(query_warehouse)),
            route("/snapshots", post=reading(take_snapshot)),
            route("/metrics", read=reading(show_metrics)),
            route("/openapi.json", read=_show_openapi),
            route("/", read=_show_status),
            *page_routes(),
            route("/health", read=_health),
            route("/ready", read=_health),
            route("/liveness", read=_liveness),
        ],
        middleware=[Middleware(Guard, settings)],
        exception_handlers={404: _not_found, OperationsError: _not_ready},
    )
    app.router.redirect_slashes = False  # a redirect would use the host that the client sent
    app.state.overview = SharedOverview()
    app.state.context = ServiceContext(warehouse, models, settings, host, operations)
    return app


async def _show_openapi(request: Request, context: ServiceContext) -> Response:
    return answer(openapi_of(context))


async def _show_status(request: Request, context: ServiceContext) -> Response:
    if request.method == "GET" and wants_html(request):
        return await show_overview(request, context)
    models = [endpoint.model.name for endpoint in context.endpoints.values()]
    reads = sorted({query.name for query in context.queries.values()})
    status = "stopping" if context.is_stopping else "ready" if context.takes_records else "busy"
    return JSONResponse({"service": "odw-engine", "status": status, "ingest": models, "consumption": reads})


async def _not_ready(request: Request, error: Exception) -> Response:
    return problem(request, str(error), 503)


async def _not_found(request: Request, _: Exception) -> Response:
    if request.method == "OPTIONS":
        return Response(status_code=200)
    return PlainTextResponse("Not found", 404)


async def _health(request: Request, context: ServiceContext) -> Response:
    states = {"Ingest API": context.takes_records, "Consumption API": await _can_read(context)}
    healthy = [name for name, is_well in states.items() if is_well]
    unhealthy = [name for name, is_well in states.items() if not is_well]
    return JSONResponse({"healthy": healthy, "unhealthy": unhealthy}, 503 if unhealthy else 200)


async def _can_read(context: ServiceContext) -> bool:
    import duckdb

    from engine.errors import StateError

    try:
        await context.read(lambda reader: reader.execute("SELECT count(*) FROM _odw_meta").fetchone())
    except (duckdb.Error, StateError):
        return False
    return True


async def _liveness(request: Request, context: ServiceContext) -> Response:
    return JSONResponse({"healthy": ["Service"], "unhealthy": []})
