"""The HTTP side of calls: the SDK's client, what it may send, and why nothing came back."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio.to_thread

from connectors.llm.settings import LlmConnection
from engine.errors import FatalError

if TYPE_CHECKING:
    import httpx
    import openai

__all__ = ["CONNECT_TIMEOUT", "open_sdk", "why_unreachable"]

CONNECT_TIMEOUT: Final = 10.0  # seconds

_SENT: Final = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host",
     "user-agent"}
)  # fmt: skip


@asynccontextmanager
async def open_sdk(connection: LlmConnection, longest: float) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK's client for as long as the context lasts. It never tries again by itself.

    What the environment says about another account is not sent: `OPENAI_ORG_ID` and its like. Proxies of the
    environment are obeyed, but for addresses of this machine.

    Raises:
        FatalError: a proxy of the environment cannot be used.
    """
    # openai takes one to two seconds to import, so it is imported here, in a thread
    await anyio.to_thread.run_sync(import_module, "openai")
    import openai

    key = connection.api_key.get_secret_value()
    async with (
        _http(connection, longest, key) as http,
        # an empty key would be looked up in the environment; what counts is what the connection says
        openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=connection.address,
            default_query=connection.query or None,
            max_retries=0,
            timeout=http.timeout,  # type: ignore[arg-type]
            http_client=http,  # type: ignore[arg-type]  # declared for its own httpx, taken from either
        ) as sdk,
    ):
        yield sdk


def _http(connection: LlmConnection, longest: float, key: str) -> httpx.AsyncClient:
    import httpx

    own = {name: value.get_secret_value() for name, value in connection.headers.items()}

    async def only_ours(request: httpx.Request) -> None:
        for name in list(request.headers):
            if name not in _SENT and not name.startswith("x-stainless-"):
                del request.headers[name]
        if not key or connection.version:
            request.headers.pop("authorization", None)
        if key and connection.version:
            request.headers["api-key"] = key
        request.headers.update(own)

    try:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(longest, connect=min(longest, CONNECT_TIMEOUT)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30.0),
            trust_env=not _is_loopback(connection.base_url),
            follow_redirects=False,  # a key is for the configured address only
            event_hooks={"request": [only_ours]},
        )
    except (ImportError, ValueError) as error:
        raise FatalError(f"cannot use the proxy of the environment: {error}") from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def why_unreachable(error: BaseException, url: str) -> str:
    """Why there was no answer, with the address and the remedy."""
    causes = list(_causes(error))
    host = urlsplit(url).hostname
    if any(isinstance(one, ssl.SSLError) for one in causes):
        reason = next(str(one) for one in causes if isinstance(one, ssl.SSLError))
        return f"no secure connection to {url}: {reason}; check the certificate, or `SSL_CERT_FILE`"
    if (
        any(isinstance(one, socket.gaierror) for one in causes)
        or "name resolution" in str(causes[-1]).lower()
    ):
        return f"unknown host name {host!r} of {url}; check `base_url`"
    if any(isinstance(one, ConnectionRefusedError) for one in causes) or "attempts failed" in str(causes[-1]):
        return f"connection refused: no service is listening at {url}; start it, or check `base_url`"
    return f"the connection to {url} failed: {_name(causes[-1])}"


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[Any]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
