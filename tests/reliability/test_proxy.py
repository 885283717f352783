"""The fault proxy injects and counts its faults correctly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.reliability.harness.proxy import HTTP_FAULTS, Fault, FaultProxy, Faults, fault_proxy

BODY = b"0123456789" * 100


class Upstream:
    """A server that answers every POST with its body, chunked or not, and keeps what it was sent."""

    def __init__(self, *, chunked: bool = False) -> None:
        self.seen: list[bytes] = []
        self.broken = 0
        self._chunked = chunked

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.seen.append(body)
                writer.write(self._answer(body))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError) as error:
            self.broken += isinstance(error, OSError) or bool(getattr(error, "partial", b""))
        finally:
            writer.close()

    def _answer(self, body: bytes) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
        if not self._chunked:
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@asynccontextmanager
async def before(
    upstream: Upstream, kinds: Sequence[Fault], probability: float = 1.0, *, http: bool = True
) -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    faults = Faults(probability, seed=7, kinds=kinds, delay=0.01)
    async with server, fault_proxy(host, port, faults, http=http) as proxy:
        yield proxy


async def post(proxy: FaultProxy) -> httpx.Response:
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        return await client.post("/", content=BODY)


@pytest.mark.parametrize("chunked", [False, True])
async def test_without_faults_everything_passes_on_one_connection(chunked: bool) -> None:
    upstream = Upstream(chunked=chunked)
    async with before(upstream, HTTP_FAULTS, 0.0) as proxy, httpx.AsyncClient(base_url=proxy.url) as client:
        answers = [await client.post("/", content=BODY) for _ in range(3)]

    assert [answer.content for answer in answers] == [BODY] * 3
    assert (proxy.exchanges, proxy.connections, proxy.done.total()) == (3, 1, 0)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", [Fault.DELAY, Fault.THROTTLE])
async def test_slow_answers_are_whole(kind: Fault, chunked: bool) -> None:
    async with before(Upstream(chunked=chunked), [kind]) as proxy:
        assert (await post(proxy)).content == BODY

    assert proxy.done == {kind: 1}


@pytest.mark.parametrize(
    ("kind", "statuses"), [(Fault.TOO_MANY, {429}), (Fault.SERVER_ERROR, {500, 502, 503, 504})]
)
async def test_answers_in_the_servers_place(kind: Fault, statuses: set[int]) -> None:
    upstream = Upstream()
    async with before(upstream, [kind]) as proxy:
        answer = await post(proxy)

    assert answer.status_code in statuses
    assert ("retry-after" in answer.headers) == (kind is Fault.TOO_MANY)
    assert upstream.seen == [], "the server was not asked"


@pytest.mark.parametrize(
    ("kind", "arrives"),
    [
        (Fault.REFUSE, False),
        (Fault.RESET_REQUEST, False),
        (Fault.LOST_ANSWER, True),
        (Fault.RESET_ANSWER, True),
        (Fault.TRUNCATE, True),
        (Fault.TOO_LONG, True),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_broken_exchanges_are_errors_to_the_client(kind: Fault, arrives: bool, chunked: bool) -> None:
    upstream = Upstream(chunked=chunked)
    async with before(upstream, [kind]) as proxy:
        with pytest.raises(httpx.TransportError):
            await post(proxy)

    assert proxy.done == {kind: 1}
    assert upstream.seen == ([BODY] if arrives else [])


async def test_an_answer_said_to_be_shorter_is_cut(recwarn: pytest.WarningsRecorder) -> None:
    async with before(Upstream(), [Fault.TOO_SHORT]) as proxy:
        try:
            content = (await post(proxy)).content
        except httpx.TransportError:  # the client may as well notice the bytes behind the end
            content = BODY[: len(BODY) // 2]

    assert content == BODY[: len(BODY) // 2]


async def outcomes(seed: int) -> list[str]:
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    kinds = (Fault.TOO_MANY, Fault.SERVER_ERROR)
    async with server, fault_proxy(host, port, Faults(0.3, seed, kinds)) as proxy:
        found = [str((await post(proxy)).status_code) for _ in range(12)]
        assert proxy.connections == 12
        assert proxy.done.total() == sum(status != "200" for status in found)
        return found


@pytest.mark.slow
async def test_the_same_seed_draws_the_same_faults() -> None:
    first, again, other = await outcomes(1), await outcomes(1), await outcomes(2)

    assert first == again
    assert first != other
    assert 0 < sum(status != "200" for status in first) < 12


async def test_a_server_that_is_gone_is_a_broken_connection() -> None:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    server.close()
    await server.wait_closed()
    async with fault_proxy(host, port, Faults(0.0)) as proxy:
        with pytest.raises(httpx.TransportError):
            await post(proxy)


@pytest.mark.parametrize("kind", [Fault.REFUSE, Fault.RESET_REQUEST, Fault.RESET_ANSWER, Fault.TRUNCATE])
async def test_any_other_wire_is_broken_between_its_bytes(kind: Fault) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    sent = BODY * 50
    async with server, fault_proxy(host, port, Faults(1.0, 3, [kind]), http=False) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        received = b""
        try:
            writer.write(sent)
            await writer.drain()
            while data := await reader.read(4096):
                received += data
        except OSError:
            pass
        finally:
            writer.close()

    assert len(received) < len(sent)
    assert sent.startswith(received)
    assert proxy.done == {kind: 1}


async def test_any_other_wire_carries_everything_without_a_fault() -> None:
    async def double(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()) * 2)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(double, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server, fault_proxy(host, port, Faults(0.0), http=False) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(BODY)
        writer.write_eof()
        assert await reader.read() == BODY * 2
        writer.close()
