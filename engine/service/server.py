"""Run the service on a socket, embedded in a running event loop or as a separate process."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from engine.contract.addresses import is_loopback
from engine.errors import ServiceError, StateError
from engine.service.discovery import (
    ServiceAddress,
    announce,
    find_running,
    service_file,
    warehouse_file,
    withdraw,
)
from engine.service.models import IngestModel, fields_of, load_ingest_models
from engine.service.operations import Operations, RunHost
from engine.service.settings import ServiceSettings

if TYPE_CHECKING:
    import uvicorn

    from engine.service.context import ServiceContext
    from engine.service.warehouse import Warehouse

__all__ = ["RunningService", "run", "running_service", "serve", "serving_app", "set_at_signals"]

_BRIEF = ServiceSettings(stop_timeout=2)
_KEEP_ALIVE = 75  # seconds; longer than clients keep idle connections, so that clients close first


LOCK_PATIENCE = 5.0
"""Seconds to wait for a warehouse without an announced service: an ending service withdraws its address
before it releases the warehouse, and one whose parent was killed during the start has announced none."""
LOCK_RETRY = 0.1


@dataclass(frozen=True, slots=True)
class RunningService:
    """A listening service. `url` has no trailing slash."""

    url: str
    warehouse: Warehouse
    context: ServiceContext


@asynccontextmanager
async def running_service(
    state_dir: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    models: Iterable[IngestModel] | None = None,
    settings: ServiceSettings | None = None,
    host_of_runs: RunHost | None = None,
    operations: Operations | None = None,
) -> AsyncIterator[RunningService]:
    """Run a service in this event loop (asyncio) for the duration of the block; port 0 picks a free one.

    `models` default to those of all installed packages. At the end it rejects new work, finishes accepted
    work (for at most `settings.stop_timeout` seconds), and closes the warehouse. Installs no signal handlers.
    Raises StateError or a subclass for the directory, ServiceError when the address is in use or open to
    others without keys, or when another service runs on the directory.
    """
    from engine.service.app import create_app
    from engine.service.reading_routes import routes_of

    settings = settings or ServiceSettings()
    _refuse_open_door(host, settings)
    models = load_ingest_models() if models is None else tuple(models)
    routes_of(models)  # before the warehouse gets tables for them
    await _refuse_second(state_dir)
    listener = _listen(host, port)
    with listener:
        warehouse = await _open_warehouse(state_dir, models, settings)
        try:
            app = create_app(warehouse, models, settings, host_of_runs, operations)
            server = _server(app, settings)
            address = ServiceAddress(_url(listener), os.getpid(), fields_of(models))
            async with _serving(server, listener, app.state.context):
                _announce(state_dir, address)
                try:
                    yield RunningService(address.url, warehouse, app.state.context)
                finally:
                    withdraw(state_dir, address)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(warehouse.close)


@asynccontextmanager
async def serving_app(
    app: object, host: str = "127.0.0.1", port: int = 0, settings: ServiceSettings = _BRIEF
) -> AsyncIterator[str]:
    """Serve a stateless application in this event loop; yield its URL. Raises ServiceError."""
    listener = _listen(host, port)
    with listener:
        server = _server(app, settings)
        task = await server.start(listener)
        try:
            yield _url(listener)
        finally:
            with anyio.CancelScope(shield=True):
                server.stop(at_once=False)
                await task


async def serve(
    state_dir: Path,
    host: str = "127.0.0.1",
    port: int = 4200,
    *,
    models: Iterable[IngestModel] | None = None,
    settings: ServiceSettings | None = None,
    on_ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a service until `stop` is set or the task is cancelled; call `on_ready` with its URL.

    Raises what `running_service` raises.
    """
    async with running_service(state_dir, host, port, models=models, settings=settings) as service:
        if on_ready is not None:
            on_ready(service.url)
        await (stop or asyncio.Event()).wait()


def run(
    state_dir: Path,
    host: str = "127.0.0.1",
    port: int = 4200,
    *,
    models: Iterable[IngestModel] | None = None,
    settings: ServiceSettings | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run a service as the main task of this process, on uvloop if available, until SIGINT or SIGTERM.

    Raises what `running_service` raises.
    """

    async def main() -> None:
        stop = asyncio.Event()
        with set_at_signals(stop):
            await serve(state_dir, host, port, models=models, settings=settings, on_ready=on_ready, stop=stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # not on Windows
    return uvloop.new_event_loop


@contextmanager
def set_at_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set the event at SIGINT and SIGTERM during the block."""
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
            installed.append(number)
        except NotImplementedError:
            break  # on Windows, Ctrl-C cancels the main task, which also stops the service
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def _refuse_open_door(host: str, settings: ServiceSettings) -> None:
    if settings.has_keys or settings.insecure or is_loopback(host):
        return
    raise ServiceError(
        f"anyone who can reach {host} could read and write: set ODW_INGEST_API_KEY and "
        "ODW_CONSUMPTION_API_KEY, listen on 127.0.0.1, or pass --insecure if the network is trusted"
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio does this only for sockets with an explicit protocol; without it small answers wait 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServiceError(f"cannot listen on {host} port {port}: {_why(error)}") from error
    listener.setblocking(False)
    return listener


def _why(error: OSError | OverflowError) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
    return f"{reason}. Choose another port; 0 picks a free one" if taken else reason


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _open_warehouse(
    state_dir: Path, models: Iterable[IngestModel], settings: ServiceSettings
) -> Warehouse:
    """Open the warehouse, waiting for a process that is about to release it."""
    from engine.service.storage import WarehouseLockedError
    from engine.service.warehouse import Warehouse

    patience = anyio.current_time() + LOCK_PATIENCE
    while True:
        try:
            return await asyncio.to_thread(Warehouse.open, warehouse_file(state_dir), models, settings)
        except StateError as error:
            await _refuse_second(state_dir)  # another service may have started in the meantime
            if not isinstance(error, WarehouseLockedError) or anyio.current_time() >= patience:
                raise
        await anyio.sleep(LOCK_RETRY)


async def _refuse_second(state_dir: Path) -> None:
    running = await asyncio.to_thread(find_running, state_dir)
    if running is not None:
        raise ServiceError(
            f"a service is already running with the state directory {state_dir}: {running.url} (process "
            f"{running.pid}). Use it, stop it, or choose another state directory"
        )


def _announce(state_dir: Path, address: ServiceAddress) -> None:
    from engine.service.storage import state_error

    try:
        announce(state_dir, address)
    except OSError as error:
        raise state_error(error, service_file(state_dir)) from error


def _server(app: object, settings: ServiceSettings) -> _EmbeddedServer:
    import uvicorn

    from engine.service.connections import bounded_protocol

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=bounded_protocol(settings),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=settings.stop_timeout,
    )
    return _EmbeddedServer(uvicorn.Server(config))


class _EmbeddedServer:
    """uvicorn's server without its signal handlers, in a separate task."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    async def start(self, listener: socket.socket) -> asyncio.Task[None]:
        """Start serving, and return the server's task once it accepts connections."""
        is_up = asyncio.Event()
        inner = self._server.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await inner(sockets)
            is_up.set()

        self._server.startup = startup  # type: ignore[method-assign]
        # SIGINT and SIGTERM belong to the owner of this loop.
        self._server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
        task = asyncio.create_task(self._server.serve([listener]), name="ingest-service")
        waiter = asyncio.create_task(is_up.wait())
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            raise ServiceError("the service could not start") from task.exception()
        return task

    def stop(self, *, at_once: bool) -> None:
        """Finish responses in progress, and end; `at_once` cuts off everything else."""
        self._server.should_exit = True
        if at_once:
            self._server.config.timeout_graceful_shutdown = 0


@asynccontextmanager
async def _serving(
    server: _EmbeddedServer, listener: socket.socket, context: ServiceContext
) -> AsyncIterator[None]:
    task = await server.start(listener)
    try:
        yield
    finally:
        # keep listening while work is unfinished, so that new requests get a proper rejection
        context.is_stopping = True
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(context.settings.stop_timeout) as waiting:
                await context.finish_accepted()
            server.stop(at_once=waiting.cancelled_caught)
            await task
