"""The page's routes: static files, sessions, views, actions, and live updates.

A view requires the key for reading; an action is a POST of one of our forms, and requires its own key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from engine.service.bodies import BodyError, read_body
from engine.service.context import ServiceContext
from engine.service.page import dead_letters, overview, records, runs, tables
from engine.service.page.access import COOKIE, LIFETIME
from engine.service.page.live import stream
from engine.service.page.rendering import HEADERS, address, problem, render, static_file
from engine.service.routing import Handler, route

_MAX_FIELDS = 2_000

Action = Callable[[Request, "ServiceContext", dict[str, str]], Awaitable[Response]]


def wants_html(request: Request) -> bool:
    """Return whether a browser sent the request: the same address answers JSON to other clients."""
    return "text/html" in request.headers.get("accept", "")


def page_routes() -> list[BaseRoute]:
    """Return all routes below `/ui`; the overview itself is at `/`."""
    return [
        Route("/ui/static/{name}", _static, methods=["GET", "HEAD"]),
        _route("/ui/login", _show_login, _log_in, guarded=False),
        _route("/ui/logout", None, _log_out, guarded=False),
        _route("/ui/live", stream),
        _route("/ui/runs", runs.show_runs),
        _route("/ui/runs/{id}", runs.show_run),
        _route("/ui/runs/{id}/end", None, runs.end_run, role="admin"),
        _route("/ui/pipelines/{name}", runs.show_pipeline),
        _route("/ui/pipelines/{name}/start", None, runs.start_run, role="admin"),
        _route("/ui/letters", dead_letters.show_letters),
        _route("/ui/letters/discard", None, dead_letters.discard_many, role="write"),
        _route("/ui/letters/{store}/{id}", dead_letters.show_letter),
        _route("/ui/letters/{store}/{id}/replay", None, dead_letters.replay, role="write"),
        _route("/ui/letters/{store}/{id}/discard", None, dead_letters.discard, role="write"),
        _route("/ui/tables", tables.show_tables),
        _route("/ui/tables/{name}", tables.show_table),
        _route("/ui/query", tables.show_query, tables.run),
        _route("/ui/records", records.show_record),
        _route("/ui/schedules", overview.show_schedules),
        _route("/ui/health", overview.show_health),
    ]


def _route(
    path: str, view: Handler | None, action: Action | None = None, *, role: str = "read", guarded: bool = True
) -> Route:
    async def show(request: Request, context: ServiceContext) -> Response:
        if guarded and not context.access.roles(request).read:
            return RedirectResponse(address(request, "/ui/login", next=_here(request)), 303)
        assert view is not None
        return await view(request, context)

    async def act(request: Request, context: ServiceContext) -> Response:
        assert action is not None
        return await _act(request, context, action, role if guarded else "")

    return route(path, read=show if view else None, post=act if action else None)


async def _act(request: Request, context: ServiceContext, action: Action, role: str) -> Response:
    roles = context.access.roles(request)
    try:
        with context.accepted(), context.inflight.share() as share:
            body = await read_body(request, context.body_limits, share)
    except BodyError as error:
        return problem(request, str(error), error.status)
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return problem(request, f"This form has more than {_MAX_FIELDS:,} fields.", 400)
    form = dict(pairs)
    form["ids"] = "\n".join(value for name, value in pairs if name == "id")
    if context.access.is_foreign(request):
        text = (
            "This form came from a page of another host. A proxy has to pass on the header Host, or "
            "set X-Forwarded-Host."
        )
        return problem(request, text, 403)
    if role and not roles.read:
        return _not_sent(request, form, "Your session has ended: log in and try again.", 401)
    if not context.access.is_own(request, form.get("csrf", "")):
        text = "The service was restarted or you have logged in since this page was opened: try again."
        return _not_sent(request, form, text, 403)
    if role and not getattr(roles, role):
        return _not_sent(request, form, f"This requires the key to {_NEEDS[role]}: log in with it, too.", 403)
    if context.is_stopping:
        return problem(request, "The service is stopping.", 503)
    return await action(request, context, form)


_NEEDS = {"read": "read", "write": "write", "admin": "start and end runs"}


def _not_sent(request: Request, form: dict[str, str], text: str, status: int) -> Response:
    """Show why a form was rejected, with the text that the visitor entered."""
    typed = form.get("record") or form.get("sql") or form.get("reason") or ""
    return problem(request, text, status, typed=typed, back=_page(request))


def _page(request: Request) -> str:
    """Return the page that contains the form of this request."""
    path = quote(request.scope["path"])
    page, _, action = path.rpartition("/")
    if action == "logout":
        return "/"
    return page if action in ("replay", "discard", "start", "end") else path


def _here(request: Request) -> str:
    """Return the address to return to after a login: the requested one, without the service's prefix."""
    path, query = quote(request.scope["path"]), request.url.query
    return f"{path}?{query}" if query else path


async def _static(request: Request) -> Response:
    return static_file(request.path_params["name"]) or PlainTextResponse("Not found", 404)


async def _show_login(request: Request, context: ServiceContext) -> Response:
    return render(request, "login.html", failed=False, next=request.query_params.get("next", ""))


async def _log_in(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    name = await context.access.log_in(request, form.get("token", ""))
    target = form.get("next", "")
    if name is None:
        return render(request, "login.html", 401, failed=True, next=target)
    # only paths of this page: `//host` and a full address would lead to another site
    is_own = target.startswith("/ui/") and "\\" not in target
    response = RedirectResponse(address(request, target if is_own else "/"), 303)
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(
        COOKIE, name, max_age=LIFETIME, httponly=True, samesite="strict", secure=secure, path="/"
    )
    return response


async def _log_out(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    context.access.log_out(request)
    response = RedirectResponse(address(request, "/"), 303, HEADERS)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
