"""Addresses of an ingest service: what is sent there, and what messages show."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import ValidationError

from connectors.addresses import proxy_for
from connectors.warehouse.client import WarehouseClient
from connectors.warehouse.connection import WarehouseConnection
from engine.contract.clock import SystemClock
from engine.errors import FatalError, TransientError
from engine.service.client import open_service

VARIABLES = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)


class Streamed(httpx.AsyncByteStream):
    """A body that comes over a wire."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"SUCCESS"


def reply(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=Streamed())


def client_of(connection: WarehouseConnection, http: httpx.AsyncClient) -> WarehouseClient:
    return WarehouseClient(http, connection.base, connection.query, longest=5, clock=SystemClock())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://host", "http://host/ingest/Blob"),
        ("http://host/", "http://host/ingest/Blob"),
        ("http://host:4200//", "http://host:4200/ingest/Blob"),
        ("http://host/base/", "http://host/base/ingest/Blob"),
        ("http://host/a%20b", "http://host/a%20b/ingest/Blob"),
        ("http://host/base?code=KEY&x=1", "http://host/base/ingest/Blob?code=KEY&x=1"),
        ("http://host/base/?code=KEY", "http://host/base/ingest/Blob?code=KEY"),
        ("http://host?code=KEY", "http://host/ingest/Blob?code=KEY"),
        ("http://user:pass@host/base", "http://host/base/ingest/Blob"),
        ("http://[::1]:4200", "http://[::1]:4200/ingest/Blob"),
    ],
)
async def test_paths_follow_the_base_and_queries_stay(url: str, target: str) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return reply(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = client_of(WarehouseConnection(url=url), http)
        await client.post("/ingest/Blob", b"[]", {}, max_answer=100)
        await client.get("/consumption/getBlobs", [("id", "1")], max_answer=100)
    assert asked[0] == target
    assert asked[1].endswith("&id=1" if "?" in target else "?id=1")


@pytest.mark.parametrize(
    ("connection", "header"),
    [
        ({"url": "http://host"}, None),
        ({"url": "http://host", "token": "t"}, "Bearer t"),
        ({"url": "http://us%40er:pa%3Ass@host"}, "Basic dXNAZXI6cGE6c3M="),
        ({"url": "http://user@host"}, "Basic dXNlcjo="),
    ],
)
def test_a_user_in_the_address_is_sent_as_a_header(connection: dict[str, str], header: str | None) -> None:
    assert WarehouseConnection.model_validate(connection).authorization == header


@pytest.mark.parametrize(
    ("connection", "problem"),
    [
        ({"url": "http://user:pass@host", "token": "t"}, "only one of them can be sent"),
        ({"url": "http://host/#part"}, "must end before the #"),
        ({"url": "ftp://host"}, "must begin with"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(connection: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        WarehouseConnection.model_validate(connection)


FATAL = [
    300,
    301,
    302,
    307,
    308,
    401,
    402,
    403,
    404,
    405,
    406,
    407,
    410,
    411,
    412,
    414,
    415,
    416,
    417,
    418,
    421,
]
FATAL += [426, 428, 431, 451]


@pytest.mark.parametrize(
    "status", [*FATAL, 408, 409, 423, 424, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599]
)
async def test_an_answer_about_the_service_blames_no_record(status: int) -> None:
    secret = WarehouseConnection(url="http://host/base?code=KEY")
    transport = httpx.MockTransport(lambda _: reply(status, location="http://other/"))
    async with httpx.AsyncClient(transport=transport) as http:
        with pytest.raises(FatalError if status in FATAL else TransientError) as caught:
            await client_of(secret, http).post("/ingest/Blob", b"[]", {}, max_answer=100)
    assert f"http://host/base/ingest/Blob answered {status}" in str(caught.value)
    assert "KEY" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_answer_about_records_is_for_the_caller(status: int) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: reply(status))) as http:
        client = client_of(WarehouseConnection(url="http://host"), http)
        answer = await client.post("/ingest/Blob", b"[]", {}, max_answer=100)
    assert answer.status == status


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://warehouse.example:4200", "http://proxy:3128"),
        ("https://warehouse.example", "http://secure:3128"),
        ("http://inside.example", None),
        ("http://localhost:4200", None),
        ("http://a.localhost:4200", None),
        ("http://127.0.0.1:4200", None),
        ("http://127.9.9.9:4200", None),
        ("http://[::1]:4200", None),
        ("http://[::ffff:127.0.0.1]:4200", None),
    ],
)
def test_the_environments_proxy_is_obeyed_beyond_this_machine(
    environment: pytest.MonkeyPatch, url: str, proxy: str | None
) -> None:
    environment.setenv("HTTP_PROXY", "http://proxy:3128")
    environment.setenv("HTTPS_PROXY", "secure:3128")
    environment.setenv("NO_PROXY", "inside.example")
    assert proxy_for(url) == proxy


def test_without_a_proxy_every_host_is_asked_directly(environment: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://warehouse.example") is None
    environment.setenv("ALL_PROXY", "http://all:1")
    assert proxy_for("http://warehouse.example") == "http://all:1"


def test_a_proxy_of_another_kind_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", "socks5://proxy:1080")
    with pytest.raises(FatalError, match="names a socks5 proxy"):
        proxy_for("http://warehouse.example")


@pytest.mark.slow
async def test_the_client_of_dead_letters_keeps_query_and_user() -> None:
    async with open_service("http://user:pass@host/base/?code=KEY") as service:
        request = service.http.build_request("GET", "/dead-letters", params={"limit": "0"})
    assert str(request.url) == "http://host/base/dead-letters?code=KEY&limit=0"
    assert service.url == "http://host/base"
