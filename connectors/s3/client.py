"""The connection to an S3 server, and the client made from it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address
from connectors.credentials import Token
from engine.contract.imports import load_modules
from engine.errors import FatalError

_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})

_ENCRYPTED: Final = frozenset(
    {"create_multipart_upload", "get_object", "head_object", "put_object", "upload_part"}
)
"""Requests that carry a customer-provided key."""

CONNECT_TIMEOUT = 10.0
"""Timeout for opening a connection, in seconds."""


class S3Connection(BaseModel):
    """Connection to an S3 server.

    Without keys, requests to AWS use the machine's credentials (environment, profile, instance role). These
    are never sent to another server: a custom endpoint needs its own keys, or `anonymous`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    endpoint: str | None = Field(
        default=None,
        description="URL of an S3-compatible server (`http://localhost:9000`); "
        "empty or `https://s3.amazonaws.com`: AWS",
    )
    access_key: Token | None = Field(default=None, description="Access key id")
    secret_key: SecretStr | None = Field(default=None, description="Secret access key")
    session_token: Token | None = Field(default=None, description="Token of temporary credentials")
    region: str | None = Field(
        default=None, description="Region of the bucket (default: the machine's setting, otherwise us-east-1)"
    )
    anonymous: bool = Field(
        default=False, description="Send requests without credentials, for public buckets"
    )

    profile: str | None = Field(
        default=None,
        description="Profile of this machine's AWS configuration whose credentials are used (also one that "
        "assumes a role); its region is the default",
    )
    addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        default=None,
        description="Where an address has the bucket: `virtual` in the host, `path` after it (default: "
        "`path` with a custom endpoint, else `auto`)",
    )
    requester_pays: bool = Field(default=False, description="Pay for requests to requester-pays buckets")
    expected_owner: str | None = Field(
        default=None, pattern=r"^(\d{12})?$", description="AWS account that must own the bucket: 12 digits"
    )
    sse_c_key: SecretStr | None = Field(
        default=None,
        description="Customer-provided key for reading and writing objects (SSE-C): 32 bytes in base64, "
        "as from `openssl rand -base64 32`",
    )
    requests: Literal["lean", "sdk"] = Field(
        default="lean",
        description="How to read objects: `lean` signs and sends GETs itself where possible, `sdk` uses "
        "botocore, at five times the processor time",
    )
    ca_bundle: str | None = Field(
        default=None, description="PEM file of certificates to trust for the server"
    )

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        return http_address(address_without_credentials(url)) if url else url

    @field_validator("sse_c_key")
    @classmethod
    def _is_key(cls, key: SecretStr | None) -> SecretStr | None:
        plain = _plain(key)
        if plain is not None and len(_decoded(plain)) != 32:
            raise ValueError("it has to be 32 bytes in base64, as `openssl rand -base64 32` prints")
        return key

    @property
    def custom(self) -> bool:
        """Whether the endpoint is not AWS."""
        if not self.endpoint:
            return False
        host = urlsplit(self.endpoint).hostname or ""
        return not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    @property
    def endpoint_url(self) -> str | None:
        """Address of the server, or None for AWS's own in the region."""
        if self.endpoint and urlsplit(self.endpoint).hostname == "s3.amazonaws.com":
            return None  # the global name only serves us-east-1
        return self.endpoint or None

    @property
    def arguments(self) -> dict[str, str]:
        """Return the arguments of every request."""
        paying = {"RequestPayer": "requester"} if self.requester_pays else {}
        return {**paying, "ExpectedBucketOwner": self.expected_owner} if self.expected_owner else paying

    @property
    def encryption(self) -> dict[str, str]:
        """Return the arguments of requests that read or write content."""
        key = _plain(self.sse_c_key)
        if key is None:
            return {}
        digest = md5(_decoded(key), usedforsecurity=False).digest()
        return {
            "SSECustomerAlgorithm": "AES256",
            "SSECustomerKey": key,
            # botocore treats a key with its digest as encoded, and sends it unchanged
            "SSECustomerKeyMD5": base64.b64encode(digest).decode(),
        }

    @property
    def server(self) -> str:
        """Stable name of the server: `aws`, or host and port.

        A server on this machine is just `localhost`: the embedded one has another port each time.
        """
        if not self.custom:
            return "aws"
        parts = urlsplit(self.endpoint or "")
        return "localhost" if parts.hostname in _THIS_MACHINE else parts.netloc.rpartition("@")[2]


class S3Client(Protocol):
    """The client methods used here; responses are botocore's dictionaries."""

    async def list_objects(self, **arguments: object) -> Mapping[str, Any]: ...
    async def list_objects_v2(self, **arguments: object) -> Mapping[str, Any]: ...
    async def head_object(self, **arguments: object) -> Mapping[str, Any]: ...
    async def get_object(self, **arguments: object) -> Mapping[str, Any]: ...


class _WithArguments:
    """A client that adds arguments to every request, and further ones to requests for content."""

    def __init__(self, client: S3Client, connection: S3Connection) -> None:
        self._client = client
        self._arguments = connection.arguments
        self._encryption = {**connection.arguments, **connection.encryption}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        arguments = self._encryption if name in _ENCRYPTED else self._arguments
        return partial(getattr(self._client, name), **arguments)


@asynccontextmanager
async def open_client(
    connection: S3Connection, *, connections: int = 32, read_timeout: float = 60.0
) -> AsyncGenerator[S3Client, None]:
    """Open a client; closing it closes its sockets.

    Args:
        connection: server and credentials.
        connections: maximum sockets, and so concurrent requests.
        read_timeout: maximum seconds without a byte from the server.

    Raises:
        FatalError: the connection is invalid.
    """
    _check(connection)
    # imported lazily: it takes 1.3 s, and only S3 needs it
    await load_modules("aiohttp", "aiobotocore.session", "connectors.s3.answers", "connectors.s3.lean")
    from aiobotocore.session import get_session  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    from connectors.s3 import answers

    session = get_session()
    if connection.profile:
        session.set_config_variable("profile", connection.profile)
    answers.tolerate_odd_values(session)
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=connection.region or session.get_config_variable("region") or "us-east-1",
                    endpoint_url=connection.endpoint_url,
                    verify=_certificates(connection),
                    aws_access_key_id=_plain(connection.access_key),
                    aws_secret_access_key=_plain(connection.secret_key),
                    aws_session_token=_plain(connection.session_token),
                    config=_config(connection, connections, read_timeout),
                )
            )
        except (BotoCoreError, ValueError) as error:  # the latter for a host that cannot exist
            raise FatalError(f"the S3 connection cannot be used: {error}") from error
        answers.check_answers(client)
        answers.take_any_bucket_name(client)
        if connection.requests == "lean":
            from connectors.s3.lean import lean_client

            client = await stack.enter_async_context(
                lean_client(
                    client,
                    connections=connections,
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=read_timeout,
                    ca_bundle=connection.ca_bundle or session.get_config_variable("ca_bundle"),
                )
            )
        if connection.arguments or connection.encryption:
            client = _WithArguments(client, connection)
        yield cast(S3Client, client)


def _config(connection: S3Connection, connections: int, read_timeout: float) -> Any:
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from botocore import UNSIGNED  # type: ignore[import-untyped]

    from connectors.s3.answers import SessionWithoutRedirects

    options: dict[str, Any] = {
        # the engine retries: botocore's own retries would hide throttling and multiply delays
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "max_pool_connections": connections,
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": read_timeout,
        # many compatible servers refuse the newer checksums (boto3 issue 4392)
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": connection.addressing_style or ("path" if connection.custom else "auto")},
        # the pipeline file decides where the data is, not AWS_ENDPOINT_URL
        "ignore_configured_endpoint_urls": True,
        "http_session_cls": SessionWithoutRedirects,
    }
    if connection.anonymous:
        options["signature_version"] = UNSIGNED
    return AioConfig(**options)


def _check(connection: S3Connection) -> None:
    keys = (connection.access_key, connection.secret_key)
    if any(keys) and not all(keys):
        message = "an S3 connection needs both `access_key` and `secret_key`, or neither"
        raise FatalError(message, kind="auth")
    if connection.profile and (any(keys) or connection.anonymous):
        message = (
            "an S3 connection has a `profile`, or keys of its own, or is `anonymous`: leave the others out"
        )
        raise FatalError(message, kind="auth")
    if connection.ca_bundle and not Path(connection.ca_bundle).is_file():
        raise FatalError(f"the S3 connection's `ca_bundle` {connection.ca_bundle!r} is not a file")
    host = urlsplit(connection.endpoint_url or "")
    if connection.encryption and host.scheme == "http" and host.hostname not in _THIS_MACHINE:
        raise FatalError(
            f"the S3 endpoint {connection.endpoint} is not encrypted, and `sse_c_key` would be readable on "
            "the way: use https"
        )
    if connection.addressing_style == "virtual" and ":" in (host.hostname or ""):
        raise FatalError(
            f"the S3 endpoint {connection.endpoint} is an IP address, which no bucket name can precede: set "
            "`addressing_style: path`"
        )
    if connection.custom and not (all(keys) or connection.anonymous or connection.profile):
        raise FatalError(
            f"the S3 endpoint {connection.endpoint} has no keys: set `access_key` and `secret_key` of its "
            "connection, a `profile`, or `anonymous: true`. "
            "This machine's AWS credentials are sent only to AWS.",
            kind="auth",
        )


def _certificates(connection: S3Connection) -> str | bool | None:
    """Return the certificate file, None for the default; False without TLS, since loading it takes 20 ms."""
    url = connection.endpoint_url
    if url is not None and url.startswith("http://") and not getproxies():
        return False
    return connection.ca_bundle or None


def _plain(secret: SecretStr | None) -> str | None:
    # an unset `${NAME:-}` becomes an empty value
    return (secret.get_secret_value() or None) if secret is not None else None


def _decoded(key: str) -> bytes:
    try:
        return base64.b64decode(key, validate=True)
    except ValueError:
        return b""
