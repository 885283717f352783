"""The lean way to read an object: a GET that is signed here and sent over our own connections.

It wraps an aiobotocore client and replaces only `get_object`, with the same responses and errors. Other cases
are passed to the client: proxies, buckets with another way of signing, unknown arguments. Importing this
imports the SDK.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

from botocore.exceptions import BotoCoreError, HTTPClientError  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]
from yarl import URL

from connectors.s3.answers import parse_date, redirect_error
from connectors.s3.connections import Connections, Origin, Response
from connectors.s3.signing import Signer, encode_key

MAX_ERROR_BYTES = 64 * 1024

_HEADERS: Final = {
    "IfMatch": "if-match",
    "Range": "range",
    "RequestPayer": "x-amz-request-payer",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    "SSECustomerKey": "x-amz-server-side-encryption-customer-key",
    "SSECustomerKeyMD5": "x-amz-server-side-encryption-customer-key-md5",
}
_PLACE: Final = "odw"
_UNPACKING: Final = "storage.googleapis.com"
"""A host that unpacks stored gzip unless told not to."""


@asynccontextmanager
async def lean_client(
    client: Any, *, connections: int, connect_timeout: float, read_timeout: float, ca_bundle: str | None
) -> AsyncGenerator[Any, None]:
    """Wrap a client for as long as it is open."""
    context = None
    if client.meta.endpoint_url.startswith("https:"):
        context = ssl.create_default_context(cafile=ca_bundle or get_cert_path(True))
        context.set_alpn_protocols(["http/1.1"])
    kept = Connections(connections, connect_timeout=connect_timeout, read_timeout=read_timeout)
    try:
        yield _LeanClient(client, kept, context)
    finally:
        await kept.aclose()


class _Address(NamedTuple):
    """The address of a bucket: `host` for the header, `path` as a prefix of encoded paths."""

    origin: Origin
    host: str
    path: str


class _OtherRegionError(Exception):
    """The bucket is in another region than the client's."""


class _LeanClient:
    def __init__(self, client: Any, connections: Connections, tls: ssl.SSLContext | None) -> None:
        self._client = client
        self._connections = connections
        self._tls = tls
        self._addresses: dict[str, _Address | None] = {}
        self._signer: Signer | None = None
        self._signed_for: tuple[str, str, str | None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_object(self, **arguments: Any) -> Mapping[str, Any]:
        """Send a GET and return the answer in botocore's form."""
        bucket = arguments["Bucket"]
        address = self._addresses[bucket] if bucket in self._addresses else await self._find_address(bucket)
        headers = _headers(arguments) if address is not None else None
        if address is None or headers is None:
            answer: Mapping[str, Any] = await self._client.get_object(**arguments)
            return answer
        path = address.path + encode_key(arguments["Key"])
        signer = await self._current_signer()
        if signer is not None:
            headers = signer.headers(address.host, path, {}, headers, datetime.now(UTC))
        response = await self._connections.send(address.origin, _request(address.host, path, headers))
        try:
            if response.status >= 300:
                await self._refuse(response)
            return _answer(response)
        except _OtherRegionError:
            # botocore finds the bucket's region and signs for it
            self._addresses[bucket] = None
            told: Mapping[str, Any] = await self._client.get_object(**arguments)
            return told
        except BaseException:
            response.close()
            raise

    async def _current_signer(self) -> Signer | None:
        """Return the signer for the current credentials, which may have been renewed; None if anonymous."""
        if self._client._request_signer.signature_version is _unsigned():
            return None
        credentials = await self._client._request_signer._credentials.get_frozen_credentials()
        now = (credentials.access_key, credentials.secret_key, credentials.token)
        if self._signer is None or now != self._signed_for:
            self._signer = Signer(now[0], now[1], self._client.meta.region_name, now[2])
            self._signed_for = now
        return self._signer

    async def _find_address(self, bucket: str) -> _Address | None:
        """Return the address of a bucket; None to use botocore."""
        self._addresses[bucket] = address = await self._address_of_botocore(bucket)
        return address

    async def _address_of_botocore(self, bucket: str) -> _Address | None:
        # access points, and directory buckets, whose sessions have separate keys
        if ":" in bucket or bucket.endswith("--x-s3"):
            return None
        signer = self._client._request_signer
        unsigned = signer.signature_version is _unsigned()
        if not unsigned and (signer.signature_version != "s3v4" or signer._credentials is None):
            return None
        try:
            # botocore has resolved the bucket's address
            url = await self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": _PLACE}
            )
        except (BotoCoreError, ValueError):
            return None
        address, _, _ = url.partition("?")
        if not address.endswith(f"/{_PLACE}") or get_environ_proxies(address):
            return None
        url = URL(address.removesuffix(_PLACE), encoded=True)
        if url.user or url.password or url.host is None or url.port is None:
            return None
        if (url.scheme == "https") is not (self._tls is not None):
            return None
        origin = Origin(url.host, url.port, self._tls)
        return _Address(origin, url.host_port_subcomponent or "", url.raw_path)

    async def _refuse(self, response: Response) -> None:
        headers = {name.decode("latin-1"): response.header(name) or "" for name in response.headers}
        if response.status < 400:
            response.close()
            raise HTTPClientError(error=redirect_error(response.status, headers))
        body = b""
        while len(body) < MAX_ERROR_BYTES and (piece := await response.read(MAX_ERROR_BYTES)):
            body += piece
        shape = self._client.meta.service_model.operation_model("GetObject").output_shape
        parsed = self._client._response_parser.parse(
            {"status_code": response.status, "headers": headers, "body": body}, shape
        )
        if hasattr(parsed, "__await__"):
            parsed = await parsed
        response.close()
        code = str(parsed.get("Error", {}).get("Code", ""))
        if code == "AuthorizationHeaderMalformed":
            raise _OtherRegionError
        raise self._client.exceptions.from_code(code)(parsed, "GetObject")


def _unsigned() -> Any:
    from botocore import UNSIGNED  # type: ignore[import-untyped]

    return UNSIGNED


def _headers(arguments: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the headers of a GET; None if an argument is not supported here."""
    headers = {}
    for argument, value in arguments.items():
        if argument in ("Bucket", "Key"):
            continue
        name = _HEADERS.get(argument)
        # a line break would start another header
        if name is None or not (value.isascii() and value.isprintable()):
            return None
        headers[name] = value
    return headers


def _request(host: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1\r\n"]
    if "host" not in headers:
        lines.append(f"host: {host}\r\n")
    lines += [f"{name}: {text}\r\n" for name, text in headers.items()]
    # the stored bytes, not a version that the server would compress
    encoding = "gzip" if host.endswith(_UNPACKING) else "identity"
    lines.append(f"accept-encoding: {encoding}\r\nuser-agent: odw-engine\r\n\r\n")
    return "".join(lines).encode("ascii")


def _answer(response: Response) -> dict[str, Any]:
    header = response.header
    length, modified = header(b"content-length"), header(b"last-modified")
    found = {
        "Body": _Body(response),
        "ContentLength": int(length) if length is not None and length.isdecimal() else None,
        "ContentType": header(b"content-type"),
        "ContentEncoding": header(b"content-encoding"),
        "ContentRange": header(b"content-range"),
        "ETag": header(b"etag"),
        "VersionId": header(b"x-amz-version-id"),
        "LastModified": parse_date(modified) if modified else None,
        "ResponseMetadata": {"HTTPStatusCode": response.status},
    }
    return {name: value for name, value in found.items() if value is not None}


class _Body:
    """The body of an answer. Closing it closes the connection unless it was read to the end."""

    __slots__ = ("close", "read")

    def __init__(self, response: Response) -> None:
        self.read = response.read
        self.close = response.close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
