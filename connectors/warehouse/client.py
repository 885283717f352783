"""The HTTP client of the ingest service, one per run.

All errors of transport and status are classified here.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from connectors.retry_after import retry_after_seconds
from connectors.transport import connection_failure, read_raw, transport_to
from connectors.warehouse.connection import WarehouseConnection
from engine.contract.clock import Clock
from engine.contract.imports import load_modules
from engine.errors import FatalError, TransientError

if TYPE_CHECKING:
    import httpx

_TRANSIENT_STATUSES = frozenset({408, 409, 423, 424, 425, 429})
_GZIP = zlib.MAX_WBITS | 16
_WRONG_ENDPOINT = frozenset({404, 405, 410})
_ABOUT_RECORDS = frozenset({400, 413, 422})

_REMEDIES = {
    402: "the account requires a payment",
    407: "a proxy requires a user and a password; set them in the environment's proxy",
    411: "the service requires a content length",
    414: "the URL is too long for it; check `url` of the connection",
    415: "it does not accept JSON, or compressed bodies; check `compress` and `url`",
    421: "it does not serve this host name; check `url` of the connection",
    426: "it requires another protocol; check `url` of the connection",
    431: "the headers are too large for it; check `token` of the connection",
    451: "it may not be used from here",
}


class UncertainError(TransientError):
    """A failure after which the request may or may not have been carried out."""


class NoSuchRouteError(FatalError):
    """The route does not exist."""


class AnswerTooLargeError(FatalError):
    """A successful response exceeded the size limit and was not read to the end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with status 2xx, 400, 413 or 422 and its body, for the caller to interpret.

    `columns` is the service's header with the columns that it accepts instead of JSON, or "".
    """

    status: int
    content_type: str
    body: bytes
    columns: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the content type is JSON."""
        return self.content_type.partition(";")[0].strip().lower() == "application/json"

    @property
    def is_page(self) -> bool:
        """Whether the body is a web page: a login, or an error page of a proxy."""
        kind = self.content_type.partition(";")[0].strip().lower()
        return kind in ("text/html", "application/xhtml+xml") or self.body.lstrip()[:1] == b"<"

    def excerpt(self, length: int = 300) -> str:
        """Return the beginning of the body as one line of text."""
        text = " ".join(self.body[: length * 4].decode("utf-8", "replace").split())
        return text if len(text) <= length else text[: length - 1] + "…"


@asynccontextmanager
async def open_client(
    connection: WarehouseConnection, *, concurrency: int, longest: float, clock: Clock
) -> AsyncIterator[WarehouseClient]:
    """Open a client for the duration of the block. `longest` bounds each request, in seconds."""
    # imported lazily: httpx and aiohttp take 0.2 s
    await load_modules("httpx", "httpx_aiohttp")
    http = await anyio.to_thread.run_sync(_build_client, connection, concurrency)
    async with http:
        yield WarehouseClient(http, connection.base, connection.query, longest=longest, clock=clock)


def _build_client(connection: WarehouseConnection, concurrency: int) -> httpx.AsyncClient:
    # called in a thread: reading the certificates takes 0.05 s, which would block other pipelines
    import httpx

    headers = {"User-Agent": "odw-engine", "Accept": "application/json", "Accept-Encoding": "identity"}
    if connection.authorization is not None:
        headers["Authorization"] = connection.authorization
    transport = transport_to(connection.base, connections=concurrency)
    return httpx.AsyncClient(transport=transport, headers=headers)


class WarehouseClient:
    """Sends requests and translates their errors.

    Every method raises TransientError (its subclass UncertainError if the request may have been carried out)
    or FatalError; messages never contain the token or a record.
    """

    def __init__(
        self, http: httpx.AsyncClient, url: str, query: str = "", *, longest: float, clock: Clock
    ) -> None:
        self._http = http
        self._url = url
        self._query = query
        self._longest = longest
        self._clock = clock

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, max_answer: int) -> Answer:
        """POST a body, JSON unless a header says otherwise.

        The status of the response is 2xx, or one about the records: 400, 413, 422.
        """
        headers = {"Content-Type": "application/json", **headers}
        return await self._send("POST", f"{self._url}{path}", max_answer, content=body, headers=headers)

    async def get(self, path: str, query: Sequence[tuple[str, str]], *, max_answer: int) -> Answer:
        """GET an address. The answer's status is 2xx, 400, 413 or 422."""
        import httpx

        params = httpx.QueryParams(list(query))
        return await self._send("GET", f"{self._url}{path}", max_answer, params=params)

    async def _send(
        self,
        method: str,
        url: str,
        max_answer: int,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: httpx.QueryParams | None = None,
    ) -> Answer:
        import aiohttp
        import httpx

        if self._query:
            own = params.multi_items() if params is not None else []
            params = httpx.QueryParams([*httpx.QueryParams(self._query).multi_items(), *own])
        request = self._http.build_request(
            method, url, content=content, headers=headers, params=params, timeout=self._longest
        )
        too_large = AnswerTooLargeError(
            f"{method} {url} answered with more than {max_answer:,} bytes: not an ingest service"
        )
        try:
            with anyio.fail_after(self._longest):
                response = await self._http.send(request, stream=True)
                try:
                    body = await read_raw(response, max_answer, too_large)
                finally:
                    await response.aclose()
                    # the response and its stream refer to each other, and so to the request with its body:
                    # without this, only the garbage collector would free it
                    response.stream = httpx.ByteStream(b"")
        except TimeoutError as error:
            raise UncertainError(f"{method} {url} did not answer within {self._longest:g} s") from error
        except (httpx.TransportError, aiohttp.ClientError, ConnectionError) as error:
            cause = type(error.__cause__ or error).__name__
            lost = UncertainError(f"{method} {url} failed: lost the connection ({cause})")
            raise connection_failure(error, self._url, "ingest service") or lost from error
        self._check(response, method, url)
        headers = response.headers
        body = _unpacked(body, headers.get("content-encoding", ""), max_answer)
        body = body.removeprefix(b"\xef\xbb\xbf")
        return Answer(
            response.status_code, headers.get("content-type", ""), body, headers.get("x-odw-columns", "")
        )

    def _check(self, response: httpx.Response, method: str, url: str) -> None:
        status = response.status_code
        answer = f"{method} {url} answered {status}"
        if status in (401, 403):
            message = f"{answer}: the token is missing or wrong; set `token` of the connection"
            raise FatalError(message, kind="auth")
        if status in _WRONG_ENDPOINT:
            raise NoSuchRouteError(
                f"{answer}: no such route; check `url` of the connection and the name of the model"
            )
        if status in _TRANSIENT_STATUSES or status >= 500:
            wait = retry_after_seconds(response.headers, self._clock.now())
            if status == 429:
                raise TransientError(answer, retry_after=wait, throttled=True)
            raise UncertainError(answer, retry_after=wait)
        if not 200 <= status < 300 and status < 400:
            raise FatalError(f"{answer}: redirects are not followed; set `url` to the service's own address")
        if status >= 400 and status not in _ABOUT_RECORDS:
            remedy = _REMEDIES.get(status, "that is about the service, not about a record")
            raise FatalError(f"{answer}: {remedy}")


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a body that a proxy compressed unrequested; return others unchanged."""
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        return body
    unpacker = zlib.decompressobj(_GZIP)
    try:
        found = unpacker.decompress(body, limit)
    except zlib.error:
        return body
    return found if unpacker.eof else body
