"""Slow, huge or foreign requests of one client do not affect other clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from connectors.models import INGEST_MODELS
from engine.errors import ServiceError
from engine.service.auth import hash_of
from engine.service.server import RunningService, running_service
from engine.service.settings import ServiceSettings

LOG = {"timestamp": "t", "level": "INFO", "message": "m"}
Open = Callable[..., Awaitable[RunningService]]


@pytest.fixture
async def serving(tmp_path: Path, kept_warehouse: None) -> AsyncIterator[Open]:
    """Starts a service with custom settings."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> RunningService:
            settings = ServiceSettings(**options)
            return await stack.enter_async_context(
                running_service(tmp_path, models=INGEST_MODELS, settings=settings)
            )

        yield start


class Wire:
    """A connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def status(self) -> int:
        """Of the next answer; 0 when the connection ends without one."""
        try:
            line = await self.reader.readline()
        except ConnectionError:
            return 0
        return int(line.split()[1]) if line else 0

    async def ended(self) -> bool:
        """Wait for the end of the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass
        return True


@asynccontextmanager
async def wire(service: RunningService) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def head(length: int, *more: str, path: str = "/ingest/LogSource") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def post(service: RunningService, identifier: str = "a", **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        return await client.post("/ingest/LogSource", json=[{"id": identifier, **LOG}], **options)


@pytest.mark.slow
async def test_bodies_that_never_come_hold_no_room(serving: Open) -> None:
    service = await serving(max_inflight_size=1024 * 1024, max_body_size=1024 * 1024)
    async with AsyncExitStack() as stack:
        for _ in range(14):
            slow = await stack.enter_async_context(wire(service))
            await slow.send(head(1024 * 1024) + b"[")
        assert (await post(service)).status_code == 200


@pytest.mark.slow
async def test_a_stalled_body_makes_room_when_it_is_needed(serving: Open) -> None:
    size = 256 * 1024
    service = await serving(max_inflight_size=size, max_body_size=size, body_timeout=60)
    async with wire(service) as slow:
        await slow.send(head(size) + b"[" + b" " * (size - 2))
        assert (await post(service)).status_code == 200
        assert await slow.status() == 408


@pytest.mark.slow
async def test_a_body_that_comes_too_slowly_is_refused(serving: Open) -> None:
    service = await serving(body_timeout=0.2)
    async with wire(service) as slow:
        await slow.send(head(1000) + b"[")
        assert await slow.status() == 408


@pytest.mark.slow
async def test_a_body_that_trickles_is_refused(serving: Open) -> None:
    service = await serving(body_timeout=0.3, min_rate=100_000)
    async with wire(service) as slow:
        await slow.send(head(100_000) + b"[")

        async def trickle() -> None:
            while True:
                await slow.send(b" ")
                await asyncio.sleep(0.05)

        sender = asyncio.create_task(trickle())
        assert await slow.status() == 408
        sender.cancel()


@pytest.mark.slow
async def test_headers_that_never_end_are_cut_off(serving: Open) -> None:
    service = await serving(header_timeout=0.3)
    async with wire(service) as silent, wire(service) as slow, AsyncExitStack() as stack:
        await slow.send(b"GET /health HTTP/1.1\r\nHost: loc")
        answered = 0
        while answered != 200:  # on a busy machine, a first request may be too slow as well
            second = await stack.enter_async_context(wire(service))
            await second.send(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answered = await second.status()
        await second.send(b"GET /liveness")  # headers of the next request on the same connection
        assert await silent.ended()
        assert await slow.ended()
        assert await second.ended()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flood",
    [
        b"X-Long: " + b"x" * 200_000,
        b"X-Many: x\r\n" * 20_000,
        b"X" * 200_000,
    ],
)
async def test_headers_beyond_the_limit_are_refused(serving: Open, flood: bytes) -> None:
    service = await serving()
    async with wire(service) as flooding:
        await flooding.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + flood)
        assert await flooding.status() == 431
    async with wire(service) as flooding:
        await flooding.send(b"GET /health?" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await flooding.status() == 431
    assert (await post(service)).status_code == 200


@pytest.mark.slow
async def test_headers_beyond_the_limit_in_one_piece_are_refused(serving: Open) -> None:
    service = await serving()
    async with wire(service) as flooding:
        request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
        await flooding.send(request)
        assert await flooding.status() == 431


@pytest.mark.slow
async def test_a_large_body_after_small_headers_is_taken(serving: Open) -> None:
    service = await serving()
    body = b"[" + b" " * 300_000 + b"]"
    async with wire(service) as client:
        await client.send(head(len(body)) + body)
        assert await client.status() == 200


@pytest.mark.slow
async def test_idle_connections_give_way_to_new_ones(serving: Open) -> None:
    service = await serving(max_connections=20, header_timeout=60)
    async with AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(wire(service)) for _ in range(60)]
        assert (await post(service)).status_code == 200
        assert await idle[0].ended()
        await idle[-1].send(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await idle[-1].status() == 200


@pytest.mark.slow
async def test_beyond_the_connections_that_work_new_ones_are_refused(serving: Open) -> None:
    service = await serving(max_connections=3)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            busy = await stack.enter_async_context(wire(service))
            await busy.send(head(1000, "Expect: 100-continue"))
            assert await busy.status() == 100
        late = await stack.enter_async_context(wire(service))
        assert await late.status() == 503


@pytest.mark.slow
async def test_a_reader_who_stalls_is_cut_off(serving: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off, lost = asyncio.Event(), HttpToolsProtocol.connection_lost

    def connection_lost(self: HttpToolsProtocol, error: Exception | None) -> None:
        if self.flow.write_paused:
            cut_off.set()
        lost(self, error)

    monkeypatch.setattr(HttpToolsProtocol, "connection_lost", connection_lost)
    service = await serving(write_timeout=0.3)
    rows = [{"id": f"{number}", **LOG, "message": "m" * 5_000} for number in range(5_000)]
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        for start in range(0, len(rows), 1_000):
            await client.post("/ingest/LogSource", json=rows[start : start + 1_000])
    async with wire(service) as reader:
        await reader.send(b"GET /consumption/getLogs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await cut_off.wait()  # its buffer takes little of an answer before somebody reads
        size = 0
        with pytest.raises(ConnectionError):
            while chunk := await reader.reader.read(1 << 20):
                size += len(chunk)
            raise ConnectionError  # an end before the last row is fine, too
        assert size < 5_000 * 5_000


@pytest.mark.slow
async def test_long_answers_wait_for_one_another(serving: Open) -> None:
    service = await serving(max_streams=1)
    rows = [{"id": f"{number}", **LOG} for number in range(3_000)]
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        await client.post("/ingest/LogSource", json=rows)
        answers = await asyncio.gather(*(client.get("/consumption/getLogs") for _ in range(5)))
        assert [len(answer.json()["items"]) for answer in answers] == [3_000] * 5
        async with client.stream("GET", "/consumption/getLogs") as long:
            assert long.status_code == 200
            assert (await client.get("/consumption/getLogs?limit=5")).status_code == 200


@pytest.mark.slow
async def test_readiness_tells_when_nothing_more_is_taken(serving: Open) -> None:
    size = 64 * 1024
    service = await serving(max_inflight_size=size, max_body_size=size, body_timeout=60)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client, wire(service) as slow:
        assert (await client.get("/ready")).status_code == 200
        await slow.send(head(size) + b"[")
        while (answer := await client.get("/ready")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert answer.json()["unhealthy"] == ["Ingest API"]
        assert (await client.get("/liveness")).status_code == 200


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:4200",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1",
]
FOREIGN_HOSTS += [
    "localhost@evil.example",
    "[::2]",
    "[::1]evil",
    "0.0.0.0",
    "localhost:x",
    "localhost:99999",
    "",
]
OWN_HOSTS = [
    "localhost",
    "LOCALHOST:4200",
    "app.localhost:80",
    "127.0.0.1:1",
    "127.8.8.8",
    "[::1]",
    "[::1]:4200",
]
OWN_HOSTS += ["[::ffff:127.0.0.1]:4200", "localhost."]
FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://localhost.evil.example",
    "null",
    "file://",
    "http://localhost@evil",
]
OWN_ORIGINS = ["http://localhost:3000", "http://127.0.0.1:4200", "http://[::1]:4200"]


@pytest.mark.slow
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_names_of_other_machines_are_refused(service: RunningService, host: str) -> None:
    async with wire(service) as client:
        await client.send(f"GET /consumption/getLogs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert await client.status() == 403


@pytest.mark.slow
@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_names_of_this_machine_are_answered(service: RunningService, host: str) -> None:
    async with wire(service) as client:
        await client.send(f"GET /consumption/getLogs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert await client.status() == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "speaks HTTP/1.1 only: turn HTTP/2 off"),
        (b"\x16\x03\x01\x02\0\x01\0", 400, "without TLS: use http://"),
        (b"SELECT 1;\r\n\r\n", 400, "not a valid request of HTTP/1.1"),
    ],
    ids=["HTTP/2", "TLS", "another"],
)
async def test_other_protocols_get_a_readable_answer(
    service: RunningService, sent: bytes, status: int, text: str
) -> None:
    async with wire(service) as client:
        await client.send(sent)
        answer = (await client.reader.read()).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert text in answer
    assert answer.count("HTTP/1.1 ") <= 2  # once in the head, once in the text
    assert "retry-after" not in answer.lower()


@pytest.mark.slow
async def test_two_hosts_in_one_request_are_refused(service: RunningService) -> None:
    async with wire(service) as client:
        await client.send(
            b"GET /consumption/getLogs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        )
        assert await client.status() in (400, 403)


@pytest.mark.slow
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_pages_of_other_hosts_are_refused(service: RunningService, origin: str) -> None:
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    assert (await post(service, headers=headers)).status_code == 403
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        answer = await client.get("/consumption/getLogs", headers=headers)
        assert answer.status_code == 403
        assert (await client.get("/consumption/getLogs")).json()["total"] == 0
        ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert (await client.options("/ingest/LogSource", headers=ask)).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_a_foreign_page_embeds_is_refused(service: RunningService, method: str) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        path = "/ingest/LogSource" if method == "POST" else "/consumption/getLogs"
        answer = await client.request(method, path, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("origin", OWN_ORIGINS)
async def test_pages_of_this_machine_may_read(service: RunningService, origin: str) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        answer = await client.get("/consumption/getLogs", headers={"Origin": origin})
        ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked = await client.options("/ingest/LogSource", headers=ask)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)


KEYS = {"ingest_api_key": hash_of("aa.bb"), "consumption_api_key": hash_of("cc.dd")}


@pytest.mark.slow
async def test_with_keys_any_host_and_page_may_ask(serving: Open) -> None:
    service = await serving(**KEYS)
    headers = {"Host": "warehouse.example", "Origin": "https://app.example"}
    assert (await post(service, headers=headers)).status_code == 401
    allowed = await post(service, headers=headers | {"Authorization": "Bearer aa.bb"})
    assert allowed.status_code == 200


@pytest.mark.slow
async def test_one_key_alone_leaves_the_guard_up(serving: Open) -> None:
    service = await serving(ingest_api_key=KEYS["ingest_api_key"])
    headers = {"Host": "evil.example", "Authorization": "Bearer aa.bb"}
    assert (await post(service, headers=headers)).status_code == 403


@pytest.mark.slow
async def test_a_host_can_be_allowed_by_name(serving: Open) -> None:
    service = await serving(allowed_hosts=("Warehouse",))
    assert (await post(service, headers={"Host": "warehouse:4200"})).status_code == 200


@pytest.mark.slow
async def test_a_prefix_of_paths_is_stripped(serving: Open) -> None:
    service = await serving(path_prefix="/base/")
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        for path in ("/base/ingest/LogSource", "/ingest/LogSource", "/base/ingest/LogSource/"):
            assert (await client.post(path, json=[{"id": "a", **LOG}])).text == "SUCCESS"
        assert (await client.get("/baseless/health")).status_code == 404


@pytest.mark.slow
async def test_no_answer_redirects_to_the_host_that_was_sent(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        for path in ("/ingest/LogSource/", "/health/", "/consumption/getLogs/", "/dead-letters/"):
            answer = await client.get(path, headers={"Host": "localhost:1"})
            assert answer.status_code in (200, 405)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "warehouse.example"])
@pytest.mark.parametrize("keys", [{}, {"ingest_api_key": KEYS["ingest_api_key"]}])
async def test_without_keys_only_this_machine_is_served(
    tmp_path: Path, host: str, keys: dict[str, str | None]
) -> None:
    with pytest.raises(ServiceError, match=r"anyone who can reach .* could read and write"):
        async with running_service(tmp_path, host, models=[], settings=ServiceSettings(**keys)):  # type: ignore[arg-type]
            pass
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [KEYS, {"insecure": True}])
async def test_with_keys_or_by_option_others_are_served(tmp_path: Path, options: dict[str, Any]) -> None:
    async with running_service(
        tmp_path, "0.0.0.0", models=[], settings=ServiceSettings(**options)
    ) as service:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(service.url.replace("0.0.0.0", "127.0.0.1") + "/health")
    assert answer.status_code == 200
