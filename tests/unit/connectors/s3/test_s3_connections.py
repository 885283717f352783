"""Connections for GET requests: fragmented, broken or unrequested answers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.s3 import connections
from connectors.s3.connections import BrokenAnswerError, Connections, Origin, Response
from connectors.s3.errors import s3_errors
from engine.errors import FatalError

REQUEST = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: one\r\nEtag: two\r\n\r\nabc"
Writer = asyncio.StreamWriter
Script = Callable[[int, Writer], Awaitable[None]]


class Server:
    """Answers the request of a number, counted from 0, as a script says; `opened` connections."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked = self.opened = 0
        self.origin = Origin("127.0.0.1", 0, None)

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.opened += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                number, self.asked = self.asked, self.asked + 1
                await self.script(number, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[Server, None]:
    server = Server(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.origin = Origin("127.0.0.1", listening.sockets[0].getsockname()[1], None)
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def opened(limit: int = 4, read_timeout: float = 60.0) -> AsyncGenerator[Connections, None]:
    made = Connections(limit, connect_timeout=60.0, read_timeout=read_timeout)
    try:
        yield made
    finally:
        await made.aclose()


def saying(*answers: bytes, close: bool = False) -> Script:
    async def script(number: int, writer: Writer) -> None:
        writer.write(answers[min(number, len(answers) - 1)])
        await writer.drain()
        if close:
            writer.close()

    return script


async def ask(server: Server, pool: Connections) -> tuple[int, bytes]:
    response = await pool.send(server.origin, REQUEST)
    return response.status, await response.read()


async def test_a_connection_is_used_again() -> None:
    async with serving(saying(SMALL)) as server, opened() as pool:
        response = await pool.send(server.origin, REQUEST)
        assert (response.header(b"etag"), response.header(b"other")) == ("one", None)
        assert [await ask(server, pool) for _ in range(3)] == [(200, b"abc")] * 3
        assert server.opened == 1


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nETag: late\r\n\r\n"
)
FORMS = {
    "length": (SMALL, b"abc"),
    "chunked": (CHUNKED, b"abcde"),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + SMALL, b"abc"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "none": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


def fed(answer: bytes, cuts: list[int]) -> Response:
    """An answer that arrives in pieces, without a network."""
    loop: Any = _Loop()
    connection = connections._Connection(_Pool(), Origin("h", 80, None), loop)  # type: ignore[arg-type]
    connection.connection_made(_Transport())  # type: ignore[arg-type]
    response = connection.send(REQUEST)
    edges = [0, *sorted(cut % len(answer) for cut in cuts), len(answer)]
    for start, stop in pairwise(edges):
        if stop > start:
            connection.data_received(answer[start:stop])
    return response


class _Loop:
    def time(self) -> float:
        return 0.0


class _Pool:
    def finished(self, connection: object, *, reusable: bool) -> None: ...


class _Transport:
    def write(self, data: bytes) -> None: ...


@given(form=st.sampled_from(sorted(FORMS)), cuts=st.lists(st.integers(0, 10_000), max_size=5))
def test_an_answer_may_arrive_in_any_pieces(form: str, cuts: list[int]) -> None:
    answer, body = FORMS[form]
    response = fed(answer, cuts)
    assert response.complete
    assert b"".join(response._pieces) == body
    assert response.header(b"etag") in (None, "one")


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\n\r\nall", close=True)) as server, opened() as pool:
        assert await ask(server, pool) == (200, b"all")
        assert await ask(server, pool) == (200, b"all")
        assert server.opened == 2


@pytest.mark.parametrize(
    "answer",
    [SMALL[:-1], SMALL[:30], b"", CHUNKED[:-5], CHUNKED[:-30], b"SSH-2.0-server\r\n\r\n"],
    ids=["body", "head", "nothing", "last chunk", "chunk", "not http"],
)
async def test_an_answer_that_breaks_off_is_an_error(answer: bytes) -> None:
    async with serving(saying(answer, close=True)) as server, opened() as pool:
        with pytest.raises(BrokenAnswerError):
            await ask(server, pool)
        assert server.asked == 1


async def test_what_arrived_before_the_break_can_be_read() -> None:
    async with serving(saying(SMALL[:-1], close=True)) as server, opened() as pool:
        response = await pool.send(server.origin, REQUEST)
        assert await response.read(10) == b"ab"
        with pytest.raises(BrokenAnswerError):
            await response.read(10)


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    async def script(number: int, writer: Writer) -> None:
        if number != 1:
            writer.write(SMALL)
        else:  # as a server does that gives up a connection while a request is on its way
            writer.close()

    async with serving(script) as server, opened() as pool:
        assert [await ask(server, pool) for _ in range(2)] == [(200, b"abc")] * 2
        assert (server.asked, server.opened) == (3, 2)


async def test_an_answer_nobody_asked_for_is_not_the_next_one() -> None:
    other = SMALL.replace(b"abc", b"xyz")
    async with serving(saying(SMALL + other[:20], SMALL)) as server, opened() as pool:
        assert [await ask(server, pool) for _ in range(2)] == [(200, b"abc")] * 2
        assert server.opened == 2


async def test_a_silent_server_is_given_up() -> None:
    async with serving(saying(b"")) as server, opened(limit=1, read_timeout=0.02) as pool:
        for _ in range(2):  # its slot is free again
            with pytest.raises(TimeoutError, match=r"silent for 0.02 s"):
                await ask(server, pool)


async def test_a_pause_of_this_process_is_no_silence_of_the_server() -> None:
    asked = asyncio.Event()

    async def script(number: int, writer: Writer) -> None:
        asked.set()

    async with serving(script) as server, opened(read_timeout=60.0) as pool:
        task = asyncio.ensure_future(ask(server, pool))
        await asked.wait()
        [connection] = pool._busy
        connection.heard -= 90
        now = asyncio.get_running_loop().time()
        pool._watch(now - 90)  # suspended for 90 seconds
        assert pool._busy == {connection}

        connection.heard -= 90
        pool._watch(now)
        with pytest.raises(TimeoutError, match="silent for 60 s"):
            await task


async def test_a_connection_that_does_not_open_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "start_connection", lambda *_, **__: anyio.sleep(60))
    pool = Connections(1, connect_timeout=0.01, read_timeout=60.0)
    for _ in range(2):  # its slot is free again
        with pytest.raises(TimeoutError, match=r"no connection within 0.01 s"):
            await pool.send(Origin("127.0.0.1", 1, None), REQUEST)
    await pool.aclose()


@pytest.mark.parametrize("host", ["a..b.s3.test", f"{'x' * 64}.s3.test"])
async def test_a_host_that_cannot_exist_is_unknown(host: str) -> None:
    pool = Connections(1, connect_timeout=60.0, read_timeout=60.0)
    with pytest.raises(socket.gaierror, match=host) as raised:
        await pool.send(Origin(host, 80, None), REQUEST)
    await pool.aclose()

    bucket = host.removesuffix(".s3.test")
    with pytest.raises(FatalError, match=f"bucket '{bucket}', x: unknown host: .*`addressing_style: path`"):
        with s3_errors(bucket, "x"):
            raise raised.value


async def test_requests_wait_for_a_connection_and_get_it() -> None:
    async with serving(saying(SMALL)) as server, opened(limit=2) as pool:
        found = await asyncio.gather(*(ask(server, pool) for _ in range(9)))
        assert found == [(200, b"abc")] * 9
        assert server.opened == 2


async def test_a_cancelled_request_frees_its_slot() -> None:
    asked = asyncio.Event()

    async def script(number: int, writer: Writer) -> None:
        asked.set()
        if number:
            writer.write(SMALL)

    async with serving(script) as server, opened(limit=1) as pool:
        task = asyncio.ensure_future(ask(server, pool))
        await asked.wait()
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        assert await ask(server, pool) == (200, b"abc")


async def test_a_large_body_that_is_not_read_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PAUSE_ABOVE", 1000)
    body = bytes(range(256)) * 4000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(saying(head + body, SMALL)) as server, opened() as pool:
        response = await pool.send(server.origin, REQUEST)
        with anyio.fail_after(300):
            while not response._connection._paused:
                await anyio.lowlevel.checkpoint()
        assert response._buffered < len(body)
        assert await response.read() == body
        assert await ask(server, pool) == (200, b"abc")
        assert server.opened == 1


async def test_a_body_that_is_closed_half_read_frees_its_slot() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
    async with serving(saying(head + b"x" * 300_000, SMALL)) as server, opened(limit=1) as pool:
        response = await pool.send(server.origin, REQUEST)
        response.close()
        assert await ask(server, pool) == (200, b"abc")
        assert server.opened == 2


async def test_the_head_of_an_answer_is_bounded() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(300))
    async with serving(saying(head, close=True)) as server, opened() as pool:
        with pytest.raises(BrokenAnswerError, match="head of the answer has more than"):
            await ask(server, pool)


async def test_the_end_of_a_chunked_answer_is_bounded() -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: "
    async with serving(saying(begun + b"y" * 3_000_000, close=True)) as server, opened() as pool:
        with pytest.raises(BrokenAnswerError, match="what follows the body has more than"):
            await ask(server, pool)


async def test_closing_the_connections_ends_every_wait() -> None:
    asked = asyncio.Event()

    async def script(number: int, writer: Writer) -> None:
        asked.set()

    async with serving(script) as server, opened(limit=1) as pool:
        waiting = [asyncio.ensure_future(ask(server, pool)) for _ in range(2)]  # one for a slot
        await asked.wait()
        await pool.aclose()
        with anyio.fail_after(300):
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [BrokenAnswerError] * 2
        assert server.opened == 1


async def test_an_answer_that_was_closed_half_read_has_no_more() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
    async with serving(saying(head + b"abc")) as server, opened() as pool:
        response = await pool.send(server.origin, REQUEST)
        response.close()
        with anyio.fail_after(300), pytest.raises(BrokenAnswerError, match="closed before it was whole"):
            await response.read(3)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not made for Windows")
def test_it_works_on_uvloop() -> None:
    import uvloop

    async def run() -> None:
        async with serving(saying(SMALL)) as server, opened() as pool:
            assert await ask(server, pool) == (200, b"abc")
        async with serving(saying(SMALL[:-1], close=True)) as server, opened() as pool:
            with pytest.raises(BrokenAnswerError):
                await ask(server, pool)

    uvloop.run(run())
