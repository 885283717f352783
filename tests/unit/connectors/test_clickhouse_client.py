"""Answers that are not from ClickHouse."""

from __future__ import annotations

import asyncio

import pytest

from connectors.clickhouse import client as clients
from connectors.clickhouse.client import ClickHouseConnection, Client
from engine.errors import FatalError, TransientError


@pytest.mark.parametrize(
    "said", [b"<html>login</html>", b"[]", b"{}", b""], ids=["page", "list", "map", "nothing"]
)
async def test_a_success_that_is_no_answer_names_the_url(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(ClickHouseConnection(url=f"http://127.0.0.1:{port}"))
    async with server:
        with pytest.raises(FatalError, match=f"{port} answered 200, but not like ClickHouse: check `url`"):
            await client.fetch("SELECT 1")
        await client.close()


async def test_a_damaged_packed_answer_is_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(ClickHouseConnection(url=f"http://127.0.0.1:{port}"))
    async with server:
        with pytest.raises(TransientError, match=f"http://127.0.0.1:{port} answered with a damaged body"):
            await client.fetch("SELECT 1")
        await client.close()


async def test_an_answer_with_invalid_chunks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[")
        await asyncio.sleep(0.01)  # until the client has the head
        writer.write(b"]HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()

    monkeypatch.setattr(clients, "_TIMEOUT", 0.2)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(ClickHouseConnection(url=f"http://127.0.0.1:{port}"))
    async with server:
        with pytest.raises(TransientError, match=f"http://127.0.0.1:{port} did not answer within 0.2 s"):
            await client.fetch("SELECT 1")
        await client.close()
