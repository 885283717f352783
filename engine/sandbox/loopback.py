"""Serve an ASGI application on a free loopback port, inside a running event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75  # longer than HTTP clients keep idle connections, so that clients close first
_GRACE_SECONDS = 2  # for answers in progress when the server stops


class _Server(uvicorn.Server):
    """Reports when it listens, and leaves the process's signal handlers alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_loopback(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app` on 127.0.0.1; yield its address, "http://127.0.0.1:PORT", once it accepts connections."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        # asyncio does this only for sockets with an explicit protocol; without it small answers wait 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            try:
                await server.listening.wait()
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
