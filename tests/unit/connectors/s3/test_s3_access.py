"""Credentials and addressing: profiles, owners, payers, addressing styles and certificates."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr, ValidationError

from connectors.s3 import S3Connection, open_client
from connectors.s3.resolver import S3WildcardResolver
from engine.errors import FatalError
from tests.unit.connectors.s3.odd_s3 import OddS3, numbered, serving

KEYS: dict[str, Any] = {"access_key": SecretStr("AKIAKEY"), "secret_key": SecretStr("hush")}


async def listed(connection: S3Connection, pattern: str = "s3://data/**") -> list[str]:
    async with open_client(connection) as client:
        return [found.key async for found in S3WildcardResolver(client).resolve_pattern(pattern)]


@pytest.mark.parametrize("pattern", ["s3://data/**", "s3://data/001.txt"])
async def test_payer_and_owner_go_with_every_request(pattern: str) -> None:
    async with serving(OddS3(numbered(3))) as lake:
        connection = S3Connection(
            endpoint=lake.url, requester_pays=True, expected_owner="123456789012", **KEYS
        )
        assert await listed(connection, pattern)
        for asked in lake.asked:
            assert asked.headers["x-amz-request-payer"] == "requester"
            assert asked.headers["x-amz-expected-bucket-owner"] == "123456789012"


async def test_a_profile_signs_requests_and_names_the_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key=x\n"
        "[lake]\naws_access_key_id=LAKEKEY\naws_secret_access_key=y\n"
    )
    (tmp_path / "config").write_text("[profile lake]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with serving(OddS3(numbered(1))) as lake:
        await listed(S3Connection(endpoint=lake.url, profile="lake"))
        signature = lake.asked[0].headers["authorization"]
        assert "LAKEKEY/" in signature
        assert "/eu-north-1/s3/" in signature
        with pytest.raises(FatalError, match=r"profile \(nobody\) could not be found"):
            await listed(S3Connection(endpoint=lake.url, profile="nobody"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("endpoint", "style", "expected"),
    [
        ("http://localhost:1", None, "path"),
        ("http://localhost:1", "virtual", "virtual"),
        (None, None, "auto"),
        (None, "path", "path"),
    ],
)
async def test_the_bucket_is_where_the_server_expects_it(
    endpoint: str | None, style: Any, expected: str
) -> None:
    async with open_client(S3Connection(endpoint=endpoint, addressing_style=style, **KEYS)) as client:
        assert client.meta.config.s3["addressing_style"] == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "x", **KEYS}, "has a `profile`, or keys of its own"),
        ({"profile": "x", "anonymous": True}, "has a `profile`, or keys of its own"),
        ({"ca_bundle": "/no/such/file.pem", **KEYS}, "`ca_bundle` '/no/such/file.pem' is not a file"),
        ({"endpoint": "http://localhost:1"}, "a `profile`, or `anonymous: true`"),
        ({"endpoint": "http://a..b:1", **KEYS}, r"cannot be used: .*http://a\.\.b:1"),
        ({"endpoint": "http://[::1]:1", "addressing_style": "virtual", **KEYS}, "`addressing_style: path`"),
    ],
)
async def test_conflicting_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FatalError, match=message):
        await listed(S3Connection(**options))


def test_an_owner_is_an_account_number() -> None:
    with pytest.raises(ValidationError):
        S3Connection(expected_owner="me")
    assert S3Connection(expected_owner="").arguments == {}


SECRET = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("requests", ["lean", "sdk"])
async def test_an_own_key_goes_with_what_reads_content(requests: Any) -> None:
    async with serving(OddS3(numbered(1))) as lake:
        connection = S3Connection(
            endpoint=lake.url, sse_c_key=SecretStr(SECRET), requests=requests, expected_owner="1" * 12, **KEYS
        )
        async with open_client(connection) as client:
            answer = await client.get_object(Bucket="data", Key="000.txt")
            async with answer["Body"] as body:
                assert await body.read() == b"object 0"
            await client.head_object(Bucket="data", Key="000.txt")
            await client.list_objects_v2(Bucket="data")
    prefix = "x-amz-server-side-encryption-customer-"
    for asked in lake.asked[:2]:
        assert asked.headers[f"{prefix}algorithm"] == "AES256"
        assert asked.headers[f"{prefix}key"] == SECRET
        assert asked.headers[f"{prefix}key-md5"] == "tP/LI3N87DFaSk0aoqYgzg=="
        assert asked.headers["x-amz-expected-bucket-owner"] == "1" * 12
    assert not [name for name in lake.asked[2].headers if name.startswith(prefix)]


@pytest.mark.parametrize("key", ["short", SECRET[:-4], f"{SECRET}=", "ä" * 44])
def test_a_key_that_is_none_is_not_shown(key: str) -> None:
    with pytest.raises(ValidationError, match="32 bytes in base64") as caught:
        S3Connection(sse_c_key=SecretStr(key))
    assert key not in str(caught.value)


def test_an_own_key_is_in_no_text() -> None:
    connection = S3Connection(sse_c_key=SecretStr(SECRET))
    for shown in (repr(connection), str(connection), connection.model_dump_json()):
        assert SECRET not in shown
    assert S3Connection(sse_c_key=SecretStr("")).encryption == {}


async def test_an_own_key_is_not_sent_in_the_clear() -> None:
    connection = S3Connection(endpoint="http://lake.example", sse_c_key=SecretStr(SECRET), **KEYS)
    with pytest.raises(FatalError, match=r"http://lake\.example is not encrypted, .* use https") as caught:
        await listed(connection)
    assert SECRET not in str(caught.value)


@asynccontextmanager
async def over_tls(lake: OddS3, folder: Path) -> AsyncGenerator[Path, None]:
    """Serve with an unknown certificate; gives its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    listening = await asyncio.start_server(lake._handle, "127.0.0.1", 0, ssl=context)
    lake.url = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
    try:
        yield certificate
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.mark.slow
async def test_a_private_certificate_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    lake = OddS3(numbered(2))
    async with over_tls(lake, tmp_path) as certificate:
        connection = S3Connection(endpoint=lake.url, ca_bundle=str(certificate), **KEYS)
        assert await listed(connection) == ["000.txt", "001.txt"]
        with pytest.raises(FatalError, match="certificate is not trusted"):
            await listed(S3Connection(endpoint=lake.url, **KEYS))
