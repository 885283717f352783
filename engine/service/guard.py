"""Access checks: reject requests that web pages make a browser send.

A service without keys trusts every client that reaches it, including a browser on this machine. So such a
service answers only to names of this machine (since a web page can point its own name here), and not to pages
of other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.contract.addresses import host_of, is_loopback
from engine.service.settings import ServiceSettings

Message: TypeAlias = MutableMapping[str, Any]

_ORIGIN = re.compile(r"https?://([^/@?#\s]+)")
_MAX_AGE = "600"
_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-ODW-Results, X-ODW-Delivery"
_SHARED = ("/consumption/", "/api/")


class Guard:
    """Rejects forbidden requests, and tells browsers which pages may read responses.

    Removes the service's prefix and a trailing slash from paths.

    With both keys set, every request needs a token, so any host and origin is allowed.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._is_guarded = not settings.has_keys
        self._any_host = settings.insecure
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._prefix = settings.path_prefix.strip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._is_guarded and (problem := self._problem(headers, scope["path"])):
            await PlainTextResponse(problem, 403)(scope, receive, send)
            return
        scope = {**scope, "path": self._without_prefix(scope["path"]).rstrip("/") or "/"}
        origin = headers.get("origin")
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(origin)(scope, receive, send)
        else:
            is_shared = scope["path"].lower().startswith(_SHARED)
            await self._app(scope, receive, _sharing(send, origin) if is_shared else send)

    def _problem(self, headers: Headers, path: str) -> str | None:
        hosts = headers.getlist("host")
        # a request without a Host header is not from a browser
        if len(hosts) > 1 or (hosts and not self._is_known(host_of(hosts[0]))):
            return (
                "This service has no keys, so it answers to names of this machine only, such as localhost. "
                "Set ODW_INGEST_API_KEY and ODW_CONSUMPTION_API_KEY to serve it under another name"
            )
        origin = headers.get("origin")
        is_strange = origin is not None and not self._is_known_origin(origin, hosts)
        if is_strange or (headers.get("sec-fetch-site") == "cross-site" and path != "/"):
            return "This service has no keys, so pages of other hosts may not use it"
        return None

    def _is_known(self, host: str | None) -> bool:
        return host is not None and (self._any_host or is_loopback(host) or host.lower() in self._hosts)

    def _is_known_origin(self, origin: str, hosts: list[str]) -> bool:
        found = _ORIGIN.fullmatch(origin)
        if found is None:  # also "null": a sandboxed frame, or a file
            return False
        if self._any_host:
            return hosts == [found[1]]
        return self._is_known(host_of(found[1]))

    def _without_prefix(self, path: str) -> str:
        prefix = f"/{self._prefix}"
        is_below = bool(self._prefix) and (path == prefix or path.startswith(f"{prefix}/"))
        return path[len(prefix) :] if is_below else path


def _preflight(origin: str) -> Response:
    return Response(
        status_code=200,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, OPTIONS",
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": _MAX_AGE,
            "Vary": "Origin",
        },
    )


def _sharing(send: Send, origin: str) -> Callable[[Message], Awaitable[None]]:
    """Return the headers, with permission for pages of this origin to read the answer."""

    async def sharing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers.add_vary_header("Origin")
        await send(message)

    return sharing
