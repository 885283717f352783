"""Schedules, and the health of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from engine.service.page import letters
from engine.service.page.rendering import render

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["show_health", "show_schedules"]


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
        ("requests waiting", context.warehouse.queued, settings.max_queued_requests),
        ("bytes of requests", context.inflight.used, settings.max_inflight_size),
        ("pages watching", context.viewers, 32),
    ]
    audit = await context.read(lambda reader: letters.audit_of(reader, limit=30))
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
