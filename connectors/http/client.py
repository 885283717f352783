"""Requests to an HTTP API, bounded in size, time and rate, with clear errors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

import anyio

from connectors.http.connection import HttpConnection
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.unpacking import unpack_body
from connectors.retry_after import reset_seconds, retry_after_seconds, server_time
from connectors.transport import connection_failure, read_raw, transport_to
from engine.contract.clock import Clock
from engine.contract.imports import load_modules
from engine.errors import FatalError, TransientError
from engine.redaction import hide, without_credentials

if TYPE_CHECKING:
    import httpx

_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
_LINK: Final = re.compile(rf'<([^<>]*)>((?:{_QUOTED}|[^",<])*+)')
_PARAMETER: Final = re.compile(rf';\s*([^\s=;,"]+)\s*(?:=\s*({_QUOTED}|[^\s;,"]*))?')

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_EXCERPT: Final = 200
_MAX_WAIT: Final = 3600.0


class TooLargeError(FatalError):
    """A successful answer exceeded the limit and was not read to the end."""


class DamagedError(TransientError):
    """The body of a successful answer is compressed, and damaged."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_page(self) -> bool:
        """Whether the body is a web page: a login, or an error page of a proxy."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind in ("text/html", "application/xhtml+xml") or self.body.lstrip()[:9].lower().startswith(
            (b"<!doctype", b"<html")
        )

    def link(self, relation: str) -> str | None:
        """Return the address of a relation in the Link header (RFC 8288), which may have several links."""
        for address, parameters in _LINK.findall(self.headers.get("link", "")):
            stated = [value for name, value in _PARAMETER.findall(parameters) if name.casefold() == "rel"]
            # the first of several counts
            if stated and relation in stated[0].strip('"').casefold().split():
                return str(address).strip()
        return None


@asynccontextmanager
async def open_client(
    connection: HttpConnection,
    *,
    concurrency: int,
    timeout: float,  # noqa: ASYNC109 - of each request, not of this function
    per_second: float | None,
    clock: Clock,
) -> AsyncIterator[HttpClient]:
    """Open a client for the duration of the block. `timeout` bounds each request, in seconds."""
    # imported lazily: httpx and aiohttp take 0.2 s
    await load_modules("httpx", "httpx_aiohttp")
    http = await anyio.to_thread.run_sync(_build, connection, concurrency)
    async with http:
        yield HttpClient(http, connection, timeout=timeout, per_second=per_second, clock=clock)


def _build(connection: HttpConnection, concurrency: int) -> httpx.AsyncClient:
    import httpx

    headers = {"User-Agent": "odw-engine", "Accept": "application/json", **connection.all_headers}
    transport = transport_to(connection.base, connections=concurrency)
    return httpx.AsyncClient(transport=transport, headers={**headers, "Accept-Encoding": "gzip"})


class HttpClient:
    """Sends requests; methods may be called concurrently.

    Every method raises TransientError or FatalError; messages contain no secret and no query.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        connection: HttpConnection,
        *,
        timeout: float,
        per_second: float | None,
        clock: Clock,
    ) -> None:
        self._http = http
        self._connection = connection
        self._timeout = timeout
        self._interval = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._free_at = 0.0

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_answer: int,
    ) -> Answer:
        """Send a request; the answer may have any status but a redirect.

        Args:
            url: absolute, of the connection's server.
            query: parameters in addition to those of the URL and the connection.
            max_answer: maximum bytes of a successful answer, unpacked; only the beginning of others is read.
        """
        said = f"{method} {url.partition('?')[0]}"
        for _ in range(_MAX_REDIRECTS):
            await self._wait()
            answer = await self._once(method, url, said, query, content, headers, max_answer)
            if answer.status not in _REDIRECTS:
                return answer
            location = answer.headers.get("location")
            if not location:
                raise FatalError(
                    f"{said} answered {answer.status}, a redirect that does not say where to; set `url` of "
                    "the connection, or `path`, to the address that answers"
                )
            target = absolute(location, url)
            stays = same_origin(target, self._connection.base)
            if method != "GET" or not stays:
                where = (
                    f"within the host, which {method} does not follow"
                    if stays
                    else f"to {urlsplit(target).hostname}: credentials are not sent there"
                )
                raise FatalError(
                    f"{said} answered {answer.status}, a redirect {where}; set `url` of the connection to "
                    "the address that answers"
                )
            url, query = target, ()
        raise FatalError(f"{said} answered with more than {_MAX_REDIRECTS} redirects")

    def failure(
        self, answer: Answer, method: str, url: str, *, retried: Collection[int] = ()
    ) -> TransientError | FatalError:
        """Return the error for an unsuccessful response; `retried` are further statuses that may pass."""
        said = f"{method} {url.partition('?')[0]} answered {answer.status}"
        status = answer.status
        wait = self._asked_wait(answer)
        limited = status == 429 or (status == 403 and wait is not None)  # GitHub answers 403
        if limited:
            said += ": its rate limit is used up"
        if limited or status in (408, 423, 425, *retried) or status >= 500:
            return TransientError(said, retry_after=wait, throttled=limited)
        remedies = {
            401: "the credentials are missing or wrong; set `token`, `user` or `headers` of the connection",
            402: "the account requires a payment",
            403: "these credentials lack the permission",
            404: "not found; check `url` of the connection and `path`",
            405: f"it does not accept {method}; check `method` and `path`",
            407: "a proxy requires a user and a password; set them in the environment's proxy",
            410: "it is no longer there; check `path`",
        }
        remedy = remedies.get(status, "check `url` of the connection, `path` and the parameters")
        message = f"{said}: {remedy}{self.excerpt(answer)}"
        return FatalError(message, kind="auth" if status in (401, 403, 407) else "config")

    def _asked_wait(self, answer: Answer) -> float | None:
        """Return the seconds that an answer asks to wait, at most an hour; None if it does not say."""
        now = server_time(answer.headers, self._clock.now())
        wait = retry_after_seconds(answer.headers, now)
        wait = reset_seconds(answer.headers, now) if wait is None else wait
        return None if wait is None else min(max(wait, 0.0), _MAX_WAIT)

    def excerpt(self, answer: Answer) -> str:
        """Return the beginning of the API's error text, to append to a message."""
        if answer.is_page or not answer.body.strip():
            return ""
        text = " ".join(answer.body[: _EXCERPT * 4].decode("utf-8", "replace").split())
        text = hide(without_credentials(text), self._connection.secrets)
        return f" (it says: {text if len(text) <= _EXCERPT else text[:_EXCERPT] + '…'})"

    async def _wait(self) -> None:
        """Wait until the rate limit allows another request."""
        if self._interval:
            now = self._clock.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + self._interval
            if start > now:
                await self._clock.sleep(start - now)

    async def _once(
        self,
        method: str,
        url: str,
        said: str,
        query: Sequence[tuple[str, str]],
        content: bytes | None,
        headers: Mapping[str, str] | None,
        max_answer: int,
    ) -> Answer:
        import aiohttp
        import httpx

        # a proxy gets the full address, which needs a path
        parts = urlsplit(url)
        address = httpx.URL(url if parts.path else parts._replace(path="/").geturl())
        params = [*address.params.multi_items(), *query, *self._connection.query]
        request = self._http.build_request(
            method,
            address.copy_with(query=None),
            params=httpx.QueryParams(tuple(params)),
            content=content,
            headers=headers,
            timeout=self._timeout,
        )
        try:
            with anyio.fail_after(self._timeout):
                response = await self._http.send(request, stream=True)
                try:
                    body = await read_raw(response, max_answer, _too_large(said, max_answer))
                finally:
                    await response.aclose()
                    # the response and its stream refer to each other, and so to the request with its body:
                    # without this, only the garbage collector would free it
                    response.stream = httpx.ByteStream(b"")
        except TimeoutError:
            raise TransientError(f"{said} did not answer within {self._timeout:g} s") from None
        except (httpx.TransportError, aiohttp.ClientError, ConnectionError) as error:
            cause = type(error.__cause__ or error).__name__
            lost = TransientError(f"{said} failed: lost the connection ({cause})")
            raise connection_failure(error, self._connection.base) or lost from None
        body = await _unpacked(body, response, max_answer, said)
        return Answer(response.status_code, response.headers, body)


def absolute(link: str, url: str) -> str:
    """Return the address of a link in an answer from `url`; from https, it never leads to http."""
    target = urljoin(url, link)
    if url.startswith("https://") and target.startswith("http://"):
        return f"https{target[4:]}"  # a server behind a proxy may not know that it is reached by https
    return target


def same_origin(url: str, base: str) -> bool:
    """Return whether `url` may get credentials for `base`: the same host, and never http instead of https."""
    one, other = urlsplit(url), urlsplit(base)
    try:
        ports = [part.port or {"http": 80, "https": 443}.get(part.scheme) for part in (one, other)]
    except ValueError:
        return False
    if one.hostname != other.hostname or "@" in one.netloc:
        return False
    upgraded = (other.scheme, one.scheme) == ("http", "https") and ports == [443, 80]
    return upgraded or (one.scheme == other.scheme and ports[0] == ports[1])


def _too_large(said: str, limit: int) -> TooLargeError:
    return TooLargeError(f"{said} answered with more than {limit:,} bytes")


async def _unpacked(body: bytes, response: httpx.Response, limit: int, said: str) -> bytes:
    """Undo the Content-Encoding; httpx would take a truncated body, or its first member, for the whole."""
    encoding = response.headers.get("content-encoding")
    if not encoding:
        return body
    try:
        found = await anyio.to_thread.run_sync(unpack_body, body, encoding, limit)
    except (PackedError, UnpackedTooLargeError) as error:
        if response.status_code >= 300:
            return b""  # the status says enough
        if isinstance(error, UnpackedTooLargeError):
            raise _too_large(said, limit) from None
        raise DamagedError(f"{said} answered with a damaged body: {error}") from None
    except ImportError:
        raise FatalError(
            f"{said} answered with `Content-Encoding: {encoding}`, which the request did not accept; to read "
            f"it: pip install 'odw-engine[s3]'"
        ) from None
    return body if found is None else found
