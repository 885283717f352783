"""Pipelines and runs: lists, one run, starting and ending."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.service.context import ServiceContext
from engine.service.operations import OperationsError, RunStartError
from engine.service.page import charts
from engine.service.page.rendering import address, problem, render

PAGE = 30
STATES = ("running", "completed", "failed", "interrupted", "outage")


async def show_runs(request: Request, context: ServiceContext) -> Response:
    """Show runs, newest first, a page at a time."""
    query = request.query_params
    pipeline, state, before = query.get("pipeline", ""), query.get("state", ""), query.get("before", "")
    runs, names = [], []
    if context.operations is not None:
        runs = await context.operations.recent(PAGE + 1, pipeline=pipeline, state=state, before=before)
        names = [one.name for one in context.operations.pipelines()]
    more = (
        address(request, "/ui/runs", pipeline=pipeline, state=state, before=runs[PAGE - 1].run_id)
        if len(runs) > PAGE
        else ""
    )
    values: dict[str, Any] = {"pipeline": pipeline, "state": state, "states": STATES, "pipelines": names}
    return render(request, "runs.html", runs=runs[:PAGE], more=more, is_later=bool(before), **values)


async def run_values(context: ServiceContext, run_id: str) -> dict[str, Any] | None:
    """Return the values of a run's page; None when there is no such run."""
    if context.operations is None:
        return None
    detail = await context.operations.detail(run_id)
    if detail is None:
        return None
    points = [(when.timestamp(), written, dead) for when, written, dead in detail.rates]
    return {
        "detail": detail,
        "run": detail.run,
        "graph": charts.graph(detail.nodes, detail.bottleneck),
        "grid": charts.split_grid(detail.splits),
        "chart": charts.rates(points, "Records written and dead per second"),
    }


async def show_run(request: Request, context: ServiceContext) -> Response:
    """Show one run with its graph, splits, rates and stages."""
    values = await run_values(context, request.path_params["id"])
    if values is None:
        return problem(request, "No run has this name.", 404)
    return render(request, "run.html", **values)


async def show_pipeline(
    request: Request, context: ServiceContext, error: str = "", given: dict[str, str] | None = None
) -> Response:
    """Show a pipeline with its graph, and a form to start it, as filled in before an error."""
    name = request.path_params["name"]
    found = context.operations.pipelines() if context.operations is not None else ()
    pipeline = next((one for one in found if one.name == name), None)
    if context.operations is None or pipeline is None:
        return problem(request, "No pipeline has this name.", 404)
    values: dict[str, Any] = {
        "pipeline": pipeline,
        "graph": charts.graph(pipeline.nodes),
        "runs": await context.operations.recent(5, pipeline=name),
        "error": error,
        "given": given or {},
    }
    return render(request, "pipeline.html", 400 if error else 200, **values)


async def start_run(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Start a run with the form's parameters, and show it."""
    name = request.path_params["name"]
    given = {
        key.removeprefix("param."): value for key, value in form.items() if key.startswith("param.") and value
    }
    if context.operations is None:
        return problem(request, "There are no pipelines here.", 404)
    try:
        started = await context.operations.start(name, given)
    except RunStartError as error:
        return await show_pipeline(request, context, str(error), given)
    context.metrics.runs[started.pipeline] += 1
    return RedirectResponse(address(request, f"/ui/runs/{started.run_id}"), 303)


async def end_run(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Drain or cancel a run."""
    run_id = request.path_params["id"]
    try:
        is_ended = context.operations is not None and await context.operations.end(
            run_id, at_once=form.get("how") == "cancel"
        )
    except OperationsError as error:
        return problem(request, str(error), 409)
    if not is_ended:
        text = "This run has ended, or belongs to another process: end it where it was started."
        return problem(request, text, 409)
    return RedirectResponse(address(request, f"/ui/runs/{run_id}"), 303)
