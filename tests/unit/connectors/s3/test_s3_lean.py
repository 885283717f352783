"""Objects read by our own signed requests, and those left to the SDK."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from connectors.s3 import S3Connection, S3Connector, S3FileReader, S3Params, lean, open_client
from connectors.s3.client import S3Client
from engine.errors import ComponentError
from tests.unit.connectors.s3.odd_s3 import BUCKET, Asked, OddS3, Reply, numbered, refusal, serving

LEAN = "odw-engine"
AWKWARD = [
    "plain.txt", "with space.txt", "ü/ß.txt", "a+b&c=d?e#f.txt", "per%20cent.txt", "~tilde", "a//b", "./c",
    "d/../e", "quote'\"<>.txt", "日本語", "trailing/", ";semi:colon@at", "[brackets]{braces}",
    "*star!", "tab\tnew\nline",
]  # fmt: skip


def connection(lake: OddS3, **more: Any) -> S3Connection:
    secret = {"access_key": "key", "secret_key": "secret"} if not more.get("anonymous") else {}
    return S3Connection.model_validate({"endpoint": lake.url, "region": "us-east-1", **secret, **more})


async def answer(client: S3Client, **arguments: Any) -> tuple[Any, ...]:
    """The outcome of a GET, in either way: the answer and the body, or the error."""
    try:
        found = await client.get_object(Bucket=BUCKET, **arguments)
    except Exception as error:  # noqa: BLE001 - it is compared with that of the other way
        response = getattr(error, "response", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return type(error).__name__, response.get("Error", {}).get("Code"), status
    pieces = []
    async with found["Body"] as body:
        while piece := await body.read(1000):
            pieces.append(piece)
    names = (
        "ContentLength",
        "ContentType",
        "ContentEncoding",
        "ContentRange",
        "ETag",
        "VersionId",
        "LastModified",
    )
    return *(found.get(name) for name in names), b"".join(pieces)


async def both(lake: OddS3, *asked: dict[str, Any], **more: Any) -> None:
    """Ask in both ways, and compare the answers and what the server was asked for."""
    heard: list[list[Any]] = []
    answers: list[list[tuple[Any, ...]]] = []
    for way in ("lean", "sdk"):
        lake.asked.clear()
        async with open_client(connection(lake, requests=way, **more)) as client:
            answers.append([await answer(client, **arguments) for arguments in asked])
        agents = [one.headers.pop("user-agent", "") for one in lake.asked]
        assert all((agent == LEAN) is (way == "lean") for agent in agents)
        signed = (
            "range",
            "if-match",
            "accept-encoding",
            "x-amz-security-token",
            "x-amz-request-payer",
            "host",
        )
        heard.append(
            [(one.method, one.key, [one.headers.get(name) for name in signed]) for one in lake.asked]
        )
    assert answers[0] == answers[1]
    assert heard[0] == heard[1]


@pytest.mark.slow
async def test_awkward_keys_are_asked_for_in_the_same_words() -> None:
    async with serving(OddS3({key: key.encode() for key in AWKWARD})) as lake:
        await both(lake, *({"Key": key} for key in AWKWARD))
        assert lake.paths[: len(AWKWARD)] == lake.paths[len(AWKWARD) :]


@pytest.mark.slow
async def test_objects_of_every_size_are_the_same_bytes() -> None:
    sizes = [0, 1, 999, 65_536, 300_001, 5_000_000]
    content = {f"{size}": (bytes(range(256)) * (size // 256 + 1))[:size] for size in sizes}
    async with serving(OddS3(content)) as lake:
        await both(lake, *({"Key": f"{size}"} for size in sizes))


@pytest.mark.slow
async def test_conditions_ranges_and_errors_are_the_same() -> None:
    class Lake(OddS3):
        def get(self, asked: Asked) -> Reply:
            known = {
                "denied": refusal(403, "AccessDenied"), "slow": refusal(503, "SlowDown"),
                "html": Reply(502, b"<html>gateway</html>", {"Content-Type": "text/html"}),
                "nothing": Reply(500, b""), "packed": Reply(200, b"x", {"Content-Encoding": "gzip"}),
                "odd": Reply(200, b"x", {"Last-Modified": "yesterday", "x-amz-version-id": "v7"}),
                "chunked": Reply(200, b"x" * 5000, chunked=True),
            }  # fmt: skip
            return known.get(asked.key) or super().get(asked)

    names = ["denied", "slow", "html", "nothing", "packed", "odd", "chunked", "gone"]
    async with serving(Lake(dict.fromkeys(names[:-1], b"") | {"a": b"abc"})) as lake:
        etag = lake.etag("a")
        await both(lake, *({"Key": name} for name in names))
        await both(
            lake,
            {"Key": "a", "IfMatch": etag},
            {"Key": "a", "IfMatch": '"other"'},
            {"Key": "a", "Range": "bytes=1-"},
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"session_token": "token"}, {"requester_pays": True}, {"anonymous": True}, {}], ids=str
)
async def test_what_goes_with_every_request_goes_along(more: dict[str, Any]) -> None:
    async with serving(OddS3({"a": b"abc"})) as lake:
        await both(lake, {"Key": "a"}, **more)


@pytest.mark.slow
async def test_what_it_does_not_apply_to_is_left_to_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def agents(bucket: str = BUCKET, **arguments: str) -> list[str]:
        lake.asked.clear()
        async with open_client(connection(lake)) as client:
            try:
                found = await client.get_object(Bucket=bucket, Key="a", **arguments)
                found["Body"].close()
            except Exception as error:  # noqa: BLE001 - no proxy listens
                return [type(error).__name__]
        return [one.headers["user-agent"] for one in lake.asked]

    async with serving(OddS3({"a": b"abc"})) as lake:
        assert await agents() == [LEAN]
        assert LEAN not in await agents(ResponseContentType="text/plain")
        assert LEAN not in await agents("tenant:bucket")
        assert LEAN not in await agents("bucket--use1-az4--x-s3")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        assert await agents() == ["ProxyConnectionError"]


async def test_renewed_credentials_sign_the_next_request() -> None:
    async with serving(OddS3({"a": b"abc"})) as lake, open_client(connection(lake)) as client:
        made: Any = client
        await answer(client, Key="a")
        made._client._request_signer._credentials.access_key = "renewed"
        await answer(client, Key="a")
    first, second = (one.headers["authorization"] for one in lake.asked)
    assert "Credential=key/" in first
    assert "Credential=renewed/" in second


@pytest.mark.slow
async def test_the_source_reads_by_lean_requests(tmp_path: Path) -> None:
    async with serving(OddS3(numbered(20))) as lake:
        source = S3Connector(S3Params(pattern=f"s3://{BUCKET}/**"), connection(lake))
        async with aclosing(source.extract()) as files:
            assert len([file async for file in files]) == 20
        assert {one.headers["user-agent"] for one in lake.asked if one.key} == {LEAN}


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_redirect_is_named_and_not_followed(status: int) -> None:
    class Moved(OddS3):
        def get(self, asked: Asked) -> Reply:
            return Reply(status, b"", {"Location": "http://127.0.0.1:9/elsewhere?x=1"})

    async with serving(Moved({"a": b"abc"})) as lake, open_client(connection(lake)) as client:
        with pytest.raises(ComponentError, match=r"redirects to http://127.0.0.1:9/elsewhere, which is not"):
            await S3FileReader(client).read_file(f"s3://{BUCKET}/a")
        assert lake.gets() == 1


@pytest.mark.parametrize(
    ("host", "encoding"),
    [
        ("localhost:9000", "identity"),
        ("storage.googleapis.com", "gzip"),
        ("b.storage.googleapis.com", "gzip"),
    ],
)
def test_objects_are_asked_for_as_they_are_stored(host: str, encoding: str) -> None:
    assert f"accept-encoding: {encoding}\r\n".encode() in lean._request(host, "/b/k", {})


def test_secrets_are_in_no_text() -> None:
    from connectors.s3.signing import Signer

    shown = repr(Signer("key", "very secret", "us-east-1", "token"))
    assert "secret" not in shown
    assert "token" not in shown


class _Abroad(OddS3):
    """A bucket of eu-west-1, as AWS answers those who sign for another region."""

    def reply(self, asked: Asked) -> Reply:
        if "/eu-west-1/s3/" in asked.headers.get("authorization", ""):
            return super().reply(asked)
        code = "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>"
        return Reply(400, f"<Error>{code}</Error>".encode(), {"x-amz-bucket-region": "eu-west-1"})


async def test_a_bucket_of_another_region_is_found_and_read() -> None:
    lake = _Abroad(numbered(3))
    async with serving(lake), open_client(connection(lake)) as client:
        answers = [await answer(client, Key=key) for key in lake.objects]

    assert [found[-1] for found in answers] == list(lake.objects.values())
    signed_for_others = [one for one in lake.asked if "/us-east-1/" in one.headers["authorization"]]
    assert len(signed_for_others) <= 2  # the one that told, and the SDK's first
