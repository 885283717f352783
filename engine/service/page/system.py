"""Schedules, and the health of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from engine.service.page import letters
from engine.service.page.rendering import render

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["show_health", "show_schedules"]


async def show_schedules(request: Request) -> Response:
    """Show the schedules of pipelines."""
    context = cast("ServiceContext", request.app.state.context)
    found = await context.operations.schedules() if context.operations is not None else []
    return render(request, "schedules.html", schedules=found)


async def show_health(request: Request) -> Response:
    """Show the state of the parts, the space used, and the audit trail."""
    context = cast("ServiceContext", request.app.state.context)
    settings, metrics = context.settings, context.metrics
    checks = [
        (
            "Ingest API",
            context.takes_records,
            "takes records" if context.takes_records else "refuses records",
        ),
        ("Warehouse", context.warehouse.problem is None, context.warehouse.problem or "can be written"),
        (
            "Pipelines",
            True,
            "of the file" if context.operations is not None else "none: serve FILE adds them",
        ),
    ]
    figures = [
        ("requests waiting", context.warehouse.queued, settings.max_queued_requests),
        ("bytes of requests", context.inflight.used, settings.max_inflight_size),
        ("pages watching", context.viewers, 32),
    ]
    requests = sorted(metrics.requests.items())
    audit = await context.in_thread(lambda: _audit(context))
    access = [
        ("reading", bool(settings.consumption_api_key)),
        ("writing", bool(settings.ingest_api_key)),
        ("administration", bool(settings.admin_api_key)),
    ]
    values: dict[str, Any] = {
        "checks": checks,
        "figures": figures,
        "requests": requests,
        "audit": audit,
        "access": access,
    }
    return render(request, "health.html", **values)


def _audit(context: ServiceContext) -> list[tuple[object, ...]]:
    with context.warehouse.reading() as reader:
        return list(letters.audit_of(reader, limit=30))
