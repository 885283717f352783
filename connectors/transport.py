"""The connections of HTTP clients: their transport, why one cannot be opened, and the bodies of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.addresses import proxy_for
from engine.errors import FatalError, TransientError

if TYPE_CHECKING:
    import httpx


def transport_to(url: str, *, connections: int, keepalive: float = 30.0) -> httpx.AsyncBaseTransport:
    """Return a transport that uses the environment's proxy for this address.

    Call it in a thread: reading the certificates takes 0.05 s.
    """
    import httpx
    from httpx_aiohttp import AiohttpTransport

    proxy = proxy_for(url)
    return AiohttpTransport(
        # no redirects are followed, so a plain http address never needs the certificates
        verify=any(one.startswith("https://") for one in (url, proxy or "")),
        limits=httpx.Limits(max_connections=connections, keepalive_expiry=keepalive),
        proxy=httpx.Proxy(proxy) if proxy is not None else None,
    )


def connection_failure(
    error: Exception, base: str, service: str = "service"
) -> TransientError | FatalError | None:
    """Return the error for a connection to `base` that could not be opened; None for one that was lost."""
    import aiohttp

    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.InvalidURL):
        return FatalError(f"{base} is not a valid address: check `url` of the connection")
    if isinstance(cause, aiohttp.ClientSSLError):
        return FatalError(f"no secure connection to {base} ({type(cause).__name__}): check its certificate")
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return TransientError(f"cannot resolve the host name of {base}")
    if isinstance(cause, aiohttp.ClientConnectorError):
        return TransientError(f"connection refused: no {service} is listening at {base}")
    return None


async def read_raw(response: httpx.Response, limit: int, too_large: FatalError) -> bytes:
    """Return the body as it arrived; of an error page, the beginning. Raises `too_large` beyond the limit."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            if response.status_code >= 300:
                break  # an error page: its beginning is enough
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)
