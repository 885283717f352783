"""Bytes of requests as they arrive: in pieces of any size, and of other protocols."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from engine.service.connections import bounded_protocol
from engine.service.settings import ServiceSettings

HEAD = (
    b"POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n"
    b"Content-Length: 5\r\n\r\n"
)


class Written(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.content = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.content += bytes(data)

    def close(self) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"content-length", str(len(body)).encode()), (b"x-query", scope["query_string"])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_to(*pieces: bytes) -> bytes:
    """Return what the service writes to a client that sends these pieces."""
    config = uvicorn.Config(echo, log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    protocol = bounded_protocol(ServiceSettings())(config=config, server_state=state, app_state={})
    transport = Written()
    protocol.connection_made(transport)
    for piece in pieces:
        protocol.data_received(piece)
        while state.tasks:
            await asyncio.sleep(0)
            if protocol.cycle is not None and protocol.cycle.more_body:
                break
    protocol.connection_lost(None)
    return transport.content


def in_pieces(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


@pytest.mark.parametrize("size", [1, 3, 500])
async def test_a_body_is_read_though_a_head_is_in_pieces(size: int) -> None:
    written = await answer_to(*2 * in_pieces(HEAD + b"[1,2]", size))
    assert written.count(b"HTTP/1.1 200") == written.count(b"\r\n\r\n[1,2]") == 2


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"turn HTTP/2 off"),
        (b"\x16\x03\x01\x02\0\x01\0", b"use http://"),
    ],
    ids=["HTTP/2", "TLS"],
)
@pytest.mark.parametrize("size", [1, 4])
async def test_other_protocols_are_known_from_small_pieces(sent: bytes, answered: bytes, size: int) -> None:
    written = await answer_to(*in_pieces(sent, size))
    assert answered in written
    assert written.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("size", [1, 3, 500])
async def test_an_address_beyond_ascii_is_read(size: int) -> None:
    head = "GET /a?pattern=é* HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    written = await answer_to(*2 * in_pieces(head, size))
    assert written.count(b"HTTP/1.1 200") == written.count(b"x-query: pattern=%C3%A9*") == 2


async def test_lines_that_end_in_two_ways_are_refused_at_once() -> None:
    assert (await answer_to(b"GET / HTTP/1.1\r\nHost: a\n\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_line_without_end_is_too_large() -> None:
    written = await answer_to(b"GET / HTTP/1.1\r\nA: ", *([b"x" * 8_192] * 9))
    assert written.startswith(b"HTTP/1.1 431 ")
