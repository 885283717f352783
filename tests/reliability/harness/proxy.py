"""A proxy for any server that injects wire faults, by seed and with a probability.

In front of HTTP it takes whole requests and answers, so that it can answer in the server's place and break
off at chosen moments; in front of anything else (`http=False`) it carries bytes and breaks connections.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tests.reliability.harness.http_wire import (
    LARGEST_HEAD,
    Message,
    MessageError,
    answer_of,
    read_answer,
    read_request,
)

__all__ = ["HTTP_FAULTS", "RAW_FAULTS", "Fault", "FaultProxy", "Faults", "fault_proxy", "proxied"]


class Fault(StrEnum):
    """What can go wrong with a connection or with one exchange on it."""

    REFUSE = "refuse"
    """Reset as soon as it is asked; the server learns of nothing."""
    RESET_REQUEST = "reset_request"
    """Half of the request arrives at the server, then both sides are reset."""
    LOST_ANSWER = "lost_answer"
    """The server has answered, and the client is reset before the first byte of it."""
    RESET_ANSWER = "reset_answer"
    """Reset in the middle of the answer."""
    TRUNCATE = "truncate"
    """The connection ends in the middle of the answer, as if it were its end."""
    DELAY = "delay"
    """The exchange begins late."""
    THROTTLE = "throttle"
    """The answer comes in small pieces."""
    TOO_MANY = "429"
    """429 with Retry-After in the server's place."""
    SERVER_ERROR = "5xx"
    """500, 502, 503 or 504 in the server's place."""
    TOO_LONG = "length_too_long"
    """The answer says that it is longer than it is, and ends."""
    TOO_SHORT = "length_too_short"
    """The answer says that it is shorter than it is, and ends."""


HTTP_FAULTS = tuple(Fault)
RAW_FAULTS = (
    Fault.REFUSE,
    Fault.RESET_REQUEST,
    Fault.RESET_ANSWER,
    Fault.TRUNCATE,
    Fault.DELAY,
    Fault.THROTTLE,
)

SERVER_ERRORS = ((500, "Internal Server Error"), (502, "Bad Gateway"), (503, "Service Unavailable"))
PIECES = 8
RAW_READ = 64 * 1024
RAW_BREAK_WITHIN = 4096


@dataclass(frozen=True)
class Faults:
    """Which faults, how often, and drawn from which seed.

    Args:
        probability: of a fault in an exchange (HTTP) or in a connection (anything else).
        delay: seconds of a delay, and of all pauses of a throttled answer together.
        retry_after: seconds, in the header of a 429.
    """

    probability: float = 0.01
    seed: int | str = 0
    kinds: Sequence[Fault] = HTTP_FAULTS
    delay: float = 0.2
    retry_after: int = 1


class FaultProxy:
    """A running proxy. Counts injected faults (`done`), `exchanges` and `connections`."""

    def __init__(self, host: str, port: int, faults: Faults, *, http: bool = True) -> None:
        self.done: Counter[Fault] = Counter()
        self.connections = 0
        self.exchanges = 0
        self.address = ("127.0.0.1", 0)
        self._upstream = (host, port)
        self._faults = faults
        self._http = http
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task"
        self._tasks.add(task)
        self.connections += 1
        random = Random(f"proxy/{self._faults.seed}/{self.connections}")
        try:
            serve = self._serve_http if self._http else self._serve_raw
            await serve(reader, writer, random)
        except (OSError, MessageError, asyncio.IncompleteReadError):
            _reset(writer)  # as if the server had vanished
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._tasks.discard(task)

    def _drawn(self, random: Random) -> Fault | None:
        if random.random() >= self._faults.probability:
            return None
        fault = random.choice(list(self._faults.kinds))
        self.done[fault] += 1
        return fault

    async def _serve_http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, random: Random
    ) -> None:
        while (request := await read_request(reader, writer)) is not None:
            self.exchanges += 1
            fault = self._drawn(random)
            if not await self._exchange(request, writer, fault, random) or request.closes:
                return

    async def _exchange(
        self, request: Message, writer: asyncio.StreamWriter, fault: Fault | None, random: Random
    ) -> bool:
        """See one exchange through; False when the connection has to end behind it."""
        match fault:
            case Fault.REFUSE:
                _reset(writer)
                return False
            case Fault.TOO_MANY:
                retry = {"Retry-After": str(self._faults.retry_after)}
                return await _send(writer, answer_of(429, "Too Many Requests", retry))
            case Fault.SERVER_ERROR:
                return await _send(writer, answer_of(*random.choice(SERVER_ERRORS)))
            case Fault.RESET_REQUEST:
                await self._half_a_request(request)
                _reset(writer)
                return False
            case Fault.DELAY:
                await asyncio.sleep(self._faults.delay)
        answer = await self._ask(request)
        return await self._answer(answer, writer, fault) and not answer.closes and _is_framed(answer)

    async def _answer(self, answer: Message, writer: asyncio.StreamWriter, fault: Fault | None) -> bool:
        raw = answer.raw
        match fault:
            case Fault.LOST_ANSWER:
                _reset(writer)
                return False
            case Fault.RESET_ANSWER:
                await _send(writer, raw[: _middle(answer)])
                _reset(writer)
                return False
            case Fault.TRUNCATE:
                await _send(writer, raw[: _middle(answer)])
                return False
            case Fault.TOO_LONG:
                await _send(writer, answer.with_length(len(answer.payload) + 7))
                return False
            case Fault.TOO_SHORT:
                await _send(writer, answer.with_length(len(answer.payload) // 2))
                return False
            case Fault.THROTTLE:
                size = -(-len(raw) // PIECES)
                for start in range(0, len(raw), size):
                    await _send(writer, raw[start : start + size])
                    await asyncio.sleep(self._faults.delay / PIECES)
                return True
        return await _send(writer, raw)

    async def _ask(self, request: Message) -> Message:
        # a connection for each exchange: a kept one that the server closes would be an undrawn fault
        reader, writer = await asyncio.open_connection(*self._upstream, limit=LARGEST_HEAD)
        try:
            await _send(writer, request.raw)
            return await read_answer(reader, request.first_line.partition(" ")[0])
        finally:
            writer.close()

    async def _half_a_request(self, request: Message) -> None:
        _, writer = await asyncio.open_connection(*self._upstream)
        await _send(writer, request.raw[: _middle(request)])
        _reset(writer)

    async def _serve_raw(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, random: Random
    ) -> None:
        fault = self._drawn(random)
        if fault is Fault.REFUSE:
            _reset(writer)
            return
        if fault is Fault.DELAY:
            await asyncio.sleep(self._faults.delay)
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        breaks = random.randrange(RAW_BREAK_WITHIN)
        try:
            upward = breaks if fault is Fault.RESET_REQUEST else None
            downward = breaks if fault in (Fault.RESET_ANSWER, Fault.TRUNCATE) else None
            pause = self._faults.delay / PIECES if fault is Fault.THROTTLE else 0.0
            await _both(_carry(reader, up_writer, upward, 0.0), _carry(up_reader, writer, downward, pause))
            if fault in (Fault.RESET_REQUEST, Fault.RESET_ANSWER):
                _reset(writer)
        finally:
            up_writer.close()

    async def _stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def fault_proxy(
    host: str, port: int, faults: Faults, *, http: bool = True
) -> AsyncIterator[FaultProxy]:
    """Run a proxy on a free port of 127.0.0.1 for the duration of the block."""
    proxy = FaultProxy(host, port, faults, http=http)
    server = await asyncio.start_server(proxy._connected, "127.0.0.1", 0, limit=LARGEST_HEAD)
    proxy.address = server.sockets[0].getsockname()[:2]
    try:
        yield proxy
    finally:
        server.close()
        await proxy._stop()


@contextmanager
def proxied(url: str, faults: Faults) -> Iterator[FaultProxy]:
    """The same in a thread of its own, in front of the server of an `http://host:port/…` address."""
    from urllib.parse import urlsplit

    from anyio.from_thread import start_blocking_portal

    parts = urlsplit(url)
    with start_blocking_portal() as portal:
        proxy = fault_proxy(parts.hostname or "127.0.0.1", parts.port or 80, faults)
        with portal.wrap_async_context_manager(proxy) as running:
            yield running


async def _send(writer: asyncio.StreamWriter, data: bytes) -> bool:
    writer.write(data)
    await writer.drain()
    return True


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop_after: int | None, pause: float
) -> bool:
    """Carry bytes until the end, or until `stop_after` of them (True)."""
    left = stop_after
    while data := await reader.read(RAW_READ):
        if pause:
            await asyncio.sleep(pause)
        part = data if left is None else data[:left]
        await _send(writer, part)
        if left is not None:
            left -= len(part)
            if not left:
                return True
    with suppress(OSError):
        writer.write_eof()
    return False


async def _both(upward: Coroutine[None, None, bool], downward: Coroutine[None, None, bool]) -> None:
    """Run both until both have ended, or one has broken off."""
    tasks = {asyncio.ensure_future(upward), asyncio.ensure_future(downward)}
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                return
    finally:
        for task in tasks:
            task.cancel()


def _middle(message: Message) -> int:
    """A place inside the body, or inside the head when there is none."""
    return len(message.head) + len(message.body) // 2 if message.body else len(message.head) // 2


def _is_framed(answer: Message) -> bool:
    """Whether a client can tell the end of the answer without the connection's."""
    headers = (answer.header(b"content-length"), answer.header(b"transfer-encoding"))
    return not answer.body or any(value is not None for value in headers)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
