"""Routes: a handler for each method, and the key that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

READS = ("GET", "HEAD")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

Handler: TypeAlias = Callable[[Request, "ServiceContext"], Awaitable[Response]]


def route(path: str, *, read: Handler | None = None, post: Handler | None = None) -> Route:
    """Return a route that answers GET and HEAD with `read`, POST with `post`, and other methods with 405."""
    handlers = {method: read for method in READS if read} | ({"POST": post} if post else {})

    async def handle(request: Request) -> Response:
        handler = handlers.get(request.method)
        if handler is not None:
            return await handler(request, request.app.state.context)
        if request.method == "OPTIONS":
            return Response(headers={"Allow": ", ".join((*handlers, "OPTIONS"))})
        return not_allowed(*handlers)

    return Route(path, handle, methods=_METHODS)


def answer(content: object, status: int = 200) -> Response:
    """Create a JSON answer."""
    return Response(orjson.dumps(content, default=str), status, media_type="application/json")


def not_allowed(*methods: str) -> Response:
    """Return the answer to a method other than these."""
    return PlainTextResponse("Method not allowed", 405, {"Allow": ", ".join((*methods, "OPTIONS"))})


def needing(key: Literal["ingest_key", "consumption_key", "admin_key"], handler: Handler) -> Handler:
    """Return a handler that answers 401 to a request without a token of this key."""

    async def checked(request: Request, context: ServiceContext) -> Response:
        if await getattr(context, key).allows(request.headers.get("authorization")):
            return await handler(request, context)
        return PlainTextResponse(
            "Unauthorized: Invalid or missing token", 401, {"WWW-Authenticate": "Bearer"}
        )

    return checked
