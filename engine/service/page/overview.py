"""The first page with current runs, rates and dead letters; schedules, and the health of the service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.service.context import ServiceContext
from engine.service.page import charts, service_dead_letters
from engine.service.page.rendering import address, render

RECENT = 8
_MAX_WORKING = 50


async def show_overview(request: Request, context: ServiceContext) -> Response:
    """Show the page at `/`."""
    if not context.access.roles(request).read:
        return RedirectResponse(address(request, "/ui/login"), 303)
    operations = context.operations
    pipelines = []
    if operations is not None:
        pipelines = [
            replace(one, last=next(iter(await operations.recent(1, pipeline=one.name)), None))
            for one in operations.pipelines()
        ]
    return render(request, "overview.html", pipelines=pipelines, **await overview_values(context))


async def overview_values(context: ServiceContext) -> dict[str, Any]:
    """Return the values that change while the page is open."""
    operations = context.operations
    runs = await operations.recent(RECENT) if operations is not None else []
    working = await operations.recent(_MAX_WORKING, state="running") if operations is not None else []
    open_causes = await operations.causes() if operations is not None else []
    own = await context.read(service_dead_letters.causes_of)
    points = context.metrics.history.rates()
    last = points[-7:-1]
    return {
        "runs": runs,
        "running": sum(run.state == "running" for run in working),
        "rate": sum(written for _, written, _ in last) / (len(last) or 1),
        "written": sum(written for _, written, _ in points) * context.metrics.history.STEP,
        "chart": charts.rates(points, "Records written and dead per second over the last hour"),
        "is_quiet": not any(written or dead for _, written, dead in points),
        "causes_of_pipelines": charts.bars(open_causes),
        "causes_of_service": charts.bars(own),
        "of_pipelines": sum(number for *_, number in open_causes),
        "of_service": sum(number for *_, number in own),
        "has_runs": operations is not None,
        "is_well": context.takes_records,
    }


async def show_schedules(request: Request, context: ServiceContext) -> Response:
    """Show the schedules of pipelines."""
    found = await context.operations.schedules() if context.operations is not None else []
    return render(request, "schedules.html", schedules=found)


async def show_health(request: Request, context: ServiceContext) -> Response:
    """Show the state of the parts, the space used, and the audit trail."""
    settings, takes = context.settings, context.takes_records
    pipelines = "of the file" if context.operations is not None else "none: serve FILE adds them"
    checks = [
        ("Ingest API", takes, "takes records" if takes else "refuses records"),
        ("Warehouse", context.warehouse.problem is None, context.warehouse.problem or "can be written"),
        ("Pipelines", True, pipelines),
    ]
    figures = [
        ("requests waiting", context.warehouse.writer.queued, settings.max_queued_requests),
        ("bytes of requests", context.inflight.used, settings.max_inflight_size),
        ("pages watching", context.viewers, 32),
    ]
    audit = await context.read(lambda reader: service_dead_letters.audit_of(reader, limit=30))
    access = [
        ("reading", bool(settings.consumption_api_key)),
        ("writing", bool(settings.ingest_api_key)),
        ("administration", bool(settings.admin_api_key)),
    ]
    return render(
        request,
        "health.html",
        checks=checks,
        figures=figures,
        requests=sorted(context.metrics.requests.items()),
        audit=audit,
        access=access,
    )
