"""The HTTP side of calls: the SDK's client, what it may send, its errors, and a check at no cost."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from connectors.addresses import proxy_for
from connectors.llm.settings import LlmConnection
from engine.contract.imports import load_modules
from engine.errors import FatalError

if TYPE_CHECKING:
    import httpx
    import openai

CONNECT_TIMEOUT: Final = 10.0  # seconds

_PROXIES: Final = ("http", "https", "socks5", "socks5h")
_SENT: Final = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host",
     "user-agent"}
)  # fmt: skip


class EndpointError(FatalError):
    """The endpoint accepts no call with this key, account, model or address."""


@asynccontextmanager
async def open_sdk(connection: LlmConnection, longest: float) -> AsyncIterator[openai.AsyncOpenAI]:
    """Open the SDK's client for the duration of the block, without its own retries.

    Settings of another account in the environment, such as `OPENAI_ORG_ID`, are ignored. Its proxies are
    used, except for addresses of this machine.

    Raises:
        FatalError: the environment's proxy or certificate file cannot be used.
    """
    # imported lazily: openai takes one to two seconds to import
    await load_modules("httpx", "openai")
    import openai

    key = connection.api_key.get_secret_value()
    async with (
        _http(connection, longest, key) as http,
        # with an empty key, the SDK would use one from the environment instead of the connection's
        openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=connection.address,
            default_query=connection.query or None,
            max_retries=0,
            timeout=http.timeout,  # type: ignore[arg-type]
            http_client=http,  # type: ignore[arg-type]  # declared for its own httpx, accepts either
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

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30.0)
    try:
        # an explicit transport, so that only `proxy_for` decides about proxies
        transport = httpx.AsyncHTTPTransport(proxy=proxy_for(connection.base_url, _PROXIES), limits=limits)
    except ImportError as error:
        raise FatalError(f"cannot use the proxy of the environment: {error}") from error
    except OSError as error:
        raise FatalError(
            f"cannot read the certificates that `SSL_CERT_FILE` or `SSL_CERT_DIR` names: {error.strerror}; "
            "set it to a PEM file of certificates"
        ) from error
    except (ValueError, httpx.InvalidURL):  # it may quote a password
        raise FatalError(
            "cannot use the proxy of the environment: it is not a valid address; correct `HTTP_PROXY`, "
            "`HTTPS_PROXY` or `ALL_PROXY`, e.g. http://proxy.example:3128"
        ) from None
    return httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(longest, connect=min(longest, CONNECT_TIMEOUT)),
        follow_redirects=False,  # the key must only be sent to the configured address
        event_hooks={"request": [only_ours]},
    )


def why_unreachable(error: BaseException, url: str) -> str:
    """Describe why there was no answer, with the address and the remedy."""
    causes = list(_causes(error))
    host = urlsplit(url).hostname
    if (proxy := _named_proxy(url)) and (told := _why_no_proxy(causes, proxy)):
        return f"{told} for {url}; check `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`"
    if any(isinstance(one, ssl.SSLError) for one in causes):
        reason = next(str(one) for one in causes if isinstance(one, ssl.SSLError))
        if "WRONG_VERSION_NUMBER" in reason:
            return f"no secure connection to {url}: the service does not speak TLS; use http:// in `base_url`"
        return f"no secure connection to {url}: {reason}; check the certificate, or `SSL_CERT_FILE`"
    if (
        any(isinstance(one, socket.gaierror) for one in causes)
        or "name resolution" in str(causes[-1]).lower()
    ):
        return f"unknown host name {host!r} of {url}; check `base_url`"
    if any(isinstance(one, ConnectionRefusedError) for one in causes) or "attempts failed" in str(causes[-1]):
        return f"connection refused: no service is listening at {url}; start it, or check `base_url`"
    return f"the connection to {url} failed: {_name(causes[-1])}"


def _named_proxy(url: str) -> str:
    """Return the proxy for an address, without user and password; "" if it is reached directly."""
    proxy = urlsplit(proxy_for(url, _PROXIES) or "")
    return f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}" if proxy.netloc else ""


def _why_no_proxy(causes: Sequence[BaseException], proxy: str) -> str:
    """Describe a failure of the proxy; "" for any other failure."""
    import httpx

    refusal = next((one for one in causes if isinstance(one, httpx.ProxyError)), None)
    if refusal is not None:
        return f"the proxy {proxy} refused the connection ({refusal})"
    if any(isinstance(one, httpx.ConnectError) for one in causes) and not any(
        isinstance(one, ssl.SSLError) for one in causes
    ):
        return f"cannot reach the proxy {proxy}"
    return ""


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[Any]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


_CHECK_LIMIT = 20.0  # seconds


async def check_endpoint(connection: LlmConnection, model: str, place: str = "") -> str:
    """Return a summary of the endpoint's models.

    Args:
        place: prefix of every message, including errors.

    Raises:
        FatalError: it cannot be reached, refuses the key, or does not have the model.
    """
    async with open_sdk(connection, _CHECK_LIMIT) as sdk:
        import openai

        try:
            names = [one.id async for one in sdk.models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise FatalError(f"{place}the endpoint refuses the key (status {error.status_code})") from None
        except openai.APIStatusError as error:
            return f"{place}the endpoint answers, but does not list its models (status {error.status_code})"
        except openai.APIConnectionError as error:
            reason = why_unreachable(error, connection.address)
            raise FatalError(f"{place}cannot reach the model endpoint: {reason}") from None
        except openai.APIError as error:
            raise FatalError(f"{place}the endpoint cannot be used: {type(error).__name__}") from None
    # Gemini lists `models/NAME`, and Ollama `NAME:latest`
    if names and not {model, f"models/{model}", f"{model}:latest"}.intersection(names):
        raise FatalError(f"{place}the endpoint has {len(names)} models, and {model!r} is not among them")
    return f"{place}takes the key" + (f", {len(names)} models, {model} among them" if names else "")
