"""The lean way to read an object: a GET that is signed here and sent by aiohttp.

It stands before an aiobotocore client and answers `get_object` alone, in the same words and with the same
errors. What it does not apply to goes the other way: proxies, buckets whose requests are signed in another
manner, arguments that it does not know. Importing this imports the SDK.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import BotoCoreError, HTTPClientError  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]
from yarl import URL

from connectors.s3.answers import parse_date, redirect_error
from connectors.s3.signing import Signer, encode_key

__all__ = ["lean_client"]

KEEPALIVE = 12.0
MAX_ERROR_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024

_HEADERS: Final = {
    "IfMatch": "if-match",
    "Range": "range",
    "RequestPayer": "x-amz-request-payer",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    "SSECustomerKey": "x-amz-server-side-encryption-customer-key",
    "SSECustomerKeyMD5": "x-amz-server-side-encryption-customer-key-md5",
}
_ARGUMENTS: Final = frozenset({"Bucket", "Key", *_HEADERS})
_PLACE: Final = "odw"


@asynccontextmanager
async def lean_client(
    client: Any, *, connections: int, connect_timeout: float, read_timeout: float, ca_bundle: str | None
) -> AsyncGenerator[Any, None]:
    """Stand before a client, as long as it is open."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout)
    context = None
    if client.meta.endpoint_url.startswith("https:"):
        context = ssl.create_default_context(cafile=ca_bundle or get_cert_path(True))
    connector = aiohttp.TCPConnector(
        limit=connections, keepalive_timeout=KEEPALIVE, ssl=context if context is not None else True
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_field_size=MAX_HEADER_BYTES,
    ) as session:
        yield _LeanClient(client, session)


class _Address(NamedTuple):
    """What the addresses of a bucket's objects begin with; the host as in its header, the path encoded."""

    url: str
    host: str
    path: str


class _OtherRegionError(Exception):
    """The bucket is in another region than that of the client."""


class _LeanClient:
    def __init__(self, client: Any, session: aiohttp.ClientSession) -> None:
        self._client = client
        self._session = session
        self._addresses: dict[str, _Address | None] = {}
        self._signer: Signer | None = None
        self._signed_for: tuple[str, str, str | None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_object(self, **arguments: Any) -> Mapping[str, Any]:
        """The answer to a GET, as botocore words it."""
        address = await self._address(arguments["Bucket"]) if _ARGUMENTS.issuperset(arguments) else None
        if address is None:
            answer: Mapping[str, Any] = await self._client.get_object(**arguments)
            return answer
        key = encode_key(arguments["Key"])
        headers = {name: arguments[argument] for argument, name in _HEADERS.items() if argument in arguments}
        headers = await self._headers(address, key, headers)
        url = URL(address.url + key, encoded=True)
        response = await self._session.get(url, headers=headers, allow_redirects=False)
        try:
            if response.status >= 300:
                await self._refuse(response)
            return _answer(response)
        except _OtherRegionError:
            # botocore finds out where the bucket is, and signs for there
            self._addresses[arguments["Bucket"]] = None
            told: Mapping[str, Any] = await self._client.get_object(**arguments)
            return told
        except BaseException:
            response.close()
            raise

    async def _headers(self, address: _Address, key: str, headers: dict[str, str]) -> dict[str, str]:
        signer = await self._current_signer()
        if signer is not None:
            headers = signer.headers(address.host, address.path + key, {}, headers, datetime.now(UTC))
        # what the bucket has, and not what the server would make of it on the way
        headers["accept-encoding"] = "identity"
        headers["user-agent"] = "odw-engine"
        return headers

    async def _current_signer(self) -> Signer | None:
        """By the credentials of now, which may have been renewed; None: the requests are anonymous."""
        if self._client._request_signer.signature_version is _unsigned():
            return None
        credentials = await self._client._request_signer._credentials.get_frozen_credentials()
        now = (credentials.access_key, credentials.secret_key, credentials.token)
        if self._signer is None or now != self._signed_for:
            self._signer = Signer(now[0], now[1], self._client.meta.region_name, now[2])
            self._signed_for = now
        return self._signer

    async def _address(self, bucket: str) -> _Address | None:
        """Where a bucket's objects are; None: it goes the other way."""
        if bucket not in self._addresses:
            self._addresses[bucket] = await self._find_address(bucket)
        return self._addresses[bucket]

    async def _find_address(self, bucket: str) -> _Address | None:
        # access points, and directory buckets, whose sessions have keys of their own
        if ":" in bucket or bucket.endswith("--x-s3"):
            return None
        signer = self._client._request_signer
        unsigned = signer.signature_version is _unsigned()
        if not unsigned and (signer.signature_version != "s3v4" or signer._credentials is None):
            return None
        try:
            # whatever decides where the bucket is, botocore has decided it
            url = await self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": _PLACE}
            )
        except (BotoCoreError, ValueError):
            return None
        address, _, _ = url.partition("?")
        if not address.endswith(f"/{_PLACE}") or get_environ_proxies(address):
            return None
        url = address.removesuffix(_PLACE)
        parts = urlsplit(url)
        if parts.username or parts.password:
            return None
        return _Address(url, URL(url, encoded=True).host_port_subcomponent or "", parts.path)

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        if response.status < 400:
            error = redirect_error(response)
            response.close()
            raise HTTPClientError(error=error)
        body = await response.content.read(MAX_ERROR_BYTES)
        while len(body) < MAX_ERROR_BYTES and (piece := await response.content.read(MAX_ERROR_BYTES)):
            body += piece
        headers = {name.lower(): text for name, text in response.headers.items()}
        shape = self._client.meta.service_model.operation_model("GetObject").output_shape
        parsed = self._client._response_parser.parse(
            {"status_code": response.status, "headers": headers, "body": body}, shape
        )
        if hasattr(parsed, "__await__"):
            parsed = await parsed
        response.release()
        code = str(parsed.get("Error", {}).get("Code", ""))
        if code == "AuthorizationHeaderMalformed":
            raise _OtherRegionError
        raise self._client.exceptions.from_code(code)(parsed, "GetObject")


def _unsigned() -> Any:
    from botocore import UNSIGNED  # type: ignore[import-untyped]

    return UNSIGNED


def _answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    headers = response.headers
    length = headers.get("Content-Length")
    modified = headers.get("Last-Modified")
    found = {
        "Body": _Body(response),
        "ContentLength": int(length) if length is not None and length.isdecimal() else None,
        "ContentType": headers.get("Content-Type"),
        "ContentEncoding": headers.get("Content-Encoding"),
        "ContentRange": headers.get("Content-Range"),
        "ETag": headers.get("ETag"),
        "VersionId": headers.get("x-amz-version-id"),
        "LastModified": parse_date(modified) if modified else None,
    }
    return {name: value for name, value in found.items() if value is not None}


class _Body:
    """The body of an answer, closed with its connection unless it was read to its end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def read(self, size: int = -1) -> bytes:
        """Up to so many of the next bytes, none at the end."""
        return await self._response.content.read(size)

    def close(self) -> None:
        """Return the connection to the pool, or close it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
