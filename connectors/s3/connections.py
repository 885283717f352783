"""Persistent HTTP/1.1 connections for GET requests.

aiohttp's client does much more for a request, which costs more than reading a small object. Answers are
parsed by httptools (llhttp), as in uvicorn. Redirects, cookies, proxies and compressed bodies are left to the
caller.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Any, Final, NamedTuple

import anyio
import anyio.lowlevel
from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

KEEPALIVE: Final = 12.0
"""Seconds that an idle connection is kept."""

WHOLE_BELOW: Final = 128 * 1024
"""Maximum body that is awaited together with its head, so the waiting task wakes only once."""

PAUSE_ABOVE: Final = 512 * 1024
"""Unread bytes above which reading from the socket pauses."""

NEXT_ADDRESS_AFTER: Final = 0.25
"""Seconds without an answer from one address before the host's next one is tried too."""

MAX_HEAD: Final = 128 * 1024
"""Maximum bytes of a head, or after a body."""


class BrokenAnswerError(ConnectionError):
    """The connection ended, or invalid HTTP arrived, before an answer was complete."""


class _ClosedEarlyError(BrokenAnswerError):
    """The server had closed an idle connection before the request."""


class Origin(NamedTuple):
    """The target of a connection; `tls` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Response:
    """An answer: its head, and its body as a stream.

    Attributes:
        status: 0 until the head has arrived.
        headers: first value of each header, by lower-case name.
    """

    __slots__ = ("_broken", "_buffered", "_connection", "_pieces", "_waiter", "complete", "headers", "status")

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._broken: Exception | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's text, or None; bytes that are not UTF-8 are replaced."""
        text = self.headers.get(name)
        return text.decode("utf-8", "replace") if text is not None else None

    async def read(self, size: int = -1) -> bytes:
        """Return up to `size` of the next bytes, b"" at the end; -1 for all of them.

        Raises:
            BrokenAnswerError, TimeoutError: it broke off; all bytes received before were read.
        """
        if size < 0:
            pieces = []
            while piece := await self.read(PAUSE_ABOVE):
                pieces.append(piece)
            return b"".join(pieces)
        while not self._pieces:
            if self.complete or not size:
                return b""
            await self.arrival()
        if self._buffered <= size:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
        else:
            data = self._pieces.popleft()
            if len(data) > size:
                self._pieces.appendleft(data[size:])
                data = data[:size]
        self._buffered -= len(data)
        if self._buffered <= PAUSE_ABOVE // 2 and not self.complete:
            self._connection.resume()
        return data

    def close(self) -> None:
        """Close the connection unless the answer is complete, discarding unread bytes."""
        self._pieces.clear()
        self._buffered = 0
        if not self.complete:
            self._connection.fail(BrokenAnswerError("the answer was closed before it was whole"))

    async def arrival(self) -> None:
        """Wait until bytes have arrived."""
        if self._broken is not None:
            raise self._broken
        self._waiter = self._connection.future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def add(self, data: bytes) -> int:
        """Add a piece of the body; return the number of unread bytes."""
        self._pieces.append(data)
        self._buffered += len(data)
        return self._buffered

    def wake(self, error: Exception | None = None) -> None:
        """Wake the waiting task: bytes have arrived, or no more will."""
        if error is not None:
            self._broken = error
        if self._waiter is not None and not self._waiter.done():
            if error is None:
                self._waiter.set_result(None)
            else:
                self._waiter.set_exception(error)

    @property
    def waited_for(self) -> bool:
        """Whether a task is waiting for more of it."""
        return self._waiter is not None


class _Connection(asyncio.Protocol):
    def __init__(self, pool: Connections, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.heard = loop.time()
        self.uses = 0
        self.response: Response | None = None
        self._pool = pool
        self._loop = loop
        self._transport: Any = None
        self._parser = HttpResponseParser(self)
        self.awaits_whole = False
        self._paused = self._until_closed = self._has_head = self._has_body = self._stray = False
        self._head_bytes = 0

    def future(self) -> asyncio.Future[None]:
        self.heard = self._loop.time()
        return self._loop.create_future()

    def send(self, request: bytes) -> Response:
        self.uses += 1
        self._has_head = self._has_body = self._until_closed = self.awaits_whole = False
        self._head_bytes = 0
        response = self.response = Response(self)
        self._transport.write(request)
        return response

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._done(reusable=False)

    def fail(self, error: Exception) -> None:
        response = self.response
        self.abort()
        if response is not None:
            response.wake(error)

    def _done(self, *, reusable: bool) -> None:
        if self.response is not None:
            self.response = None
            self._pool.finished(self, reusable=reusable)

    # called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        response = self.response
        if response is None:
            self._close_stray()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.fail(BrokenAnswerError(f"the answer is not HTTP: {error}"))
            return
        if self._stray:
            self._close_stray()
        if self._has_head and not self.awaits_whole:
            response.wake()
        if self._has_body:
            self._has_body, self._head_bytes = False, 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD and self.response is not None:
            what = "what follows the body" if self._has_head else "the head of the answer"
            self.fail(BrokenAnswerError(f"{what} has more than {MAX_HEAD:,} bytes"))

    def _close_stray(self) -> None:
        """Close after unrequested bytes, which could be mistaken for the next answer."""
        self._pool.forget(self)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        response = self.response
        if response is None:
            return
        if self._until_closed and error is None:
            response.complete = True
            self._done(reusable=False)
            response.wake()
            return
        begun = self._head_bytes or self._has_head or self.uses == 1
        kind = BrokenAnswerError if begun else _ClosedEarlyError
        why = f": {error}" if error is not None else ""
        self._done(reusable=False)
        response.wake(kind(f"the server closed the connection before its answer was whole{why}"))

    # called by the parser

    def on_message_begin(self) -> None:
        self._stray = self.response is None

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head and self.response is not None:
            self.response.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        response = self.response
        if response is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            response.headers.clear()  # another answer follows
            return
        response.status, self._has_head = status, True
        length = response.headers.get(b"content-length")
        if length is not None:
            self.awaits_whole = length.isdigit() and int(length) <= WHOLE_BELOW
        else:
            self._until_closed = b"transfer-encoding" not in response.headers and status not in (204, 304)

    def on_body(self, data: bytes) -> None:
        self._has_body = True
        response = self.response
        if response is not None and response.add(data) > PAUSE_ABOVE and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response = self.response
        if response is None or not self._has_head:
            return
        response.complete = True
        self.resume()
        self._done(reusable=self._parser.should_keep_alive())
        response.wake()


async def _look_up(origin: Origin) -> list[Any]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{origin.host}: {error}") from error
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{origin.host}: {error.strerror}") from error


class Connections:
    """Sends requests over as many connections as needed, up to a limit.

    Args:
        limit: maximum concurrent requests and connections. Further requests wait.
        connect_timeout: timeout for opening a connection, in seconds.
        read_timeout: maximum seconds without a byte while waiting for an answer.
    """

    def __init__(self, limit: int, *, connect_timeout: float, read_timeout: float) -> None:
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, origin: Origin, request: bytes) -> Response:
        """Send a request and return the answer once its head has arrived. Read it to the end, or close it.

        A request on a connection that the server has just closed is sent again.

        Raises:
            OSError: the server cannot be reached, does not answer (`TimeoutError`), or breaks off
                (`BrokenAnswerError`).
        """
        while True:
            await self._slots.acquire()
            try:
                if self._closed:
                    raise BrokenAnswerError("the connections are closed")
                connection = self._take(origin) or await self._connect(origin)
            except BaseException:
                self._slots.release()
                raise
            self._busy.add(connection)
            response = connection.send(request)
            try:
                while not response.status or (not response.complete and connection.awaits_whole):
                    await response.arrival()
                return response
            except _ClosedEarlyError:
                continue
            except BaseException as error:
                if response.status and isinstance(error, BrokenAnswerError | TimeoutError):
                    return response  # received bytes of the body can still be read
                response.close()
                raise

    async def aclose(self) -> None:
        """Close all connections. Requests that still wait for an answer fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.fail(BrokenAnswerError("the connections are closed"))
        self._idle.clear()
        await anyio.lowlevel.checkpoint()  # sockets close in the event loop's next iteration

    def finished(self, connection: _Connection, *, reusable: bool) -> None:
        """Return a connection to the pool after its answer."""
        self._busy.discard(connection)
        self._slots.release()
        if reusable:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: _Connection) -> None:
        """Remove a closed connection."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _take(self, origin: Origin) -> _Connection | None:
        """Return the most recently used idle connection."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].origin == origin:
                return self._idle.pop(index)
        if len(self._idle) + len(self._busy) >= self._limit:
            self._idle.pop(0).abort()  # to another server
        return None

    async def _connect(self, origin: Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        with anyio.move_on_after(self._connect_timeout) as opening:
            found = await _look_up(origin)
            # not create_connection, which waits long for an address that does not answer
            sock = await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_AFTER)
            _, connection = await loop.create_connection(
                lambda: _Connection(self, origin, loop),
                sock=sock,
                ssl=origin.tls,
                server_hostname=origin.host if origin.tls else None,
            )
        if opening.cancelled_caught:
            raise TimeoutError(f"no connection within {self._connect_timeout:g} s")
        if self._timer is None:
            self._watch(loop.time())
        return connection

    def _watch(self, due: float) -> None:
        """Once a second, fail requests without a byte for too long, and close idle connections."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        paused = now - due  # this process was suspended or busy, which is not the server's silence
        for connection in list(self._busy):
            connection.heard = min(now, connection.heard + paused)
            response = connection.response
            if response is not None and response.waited_for and now - connection.heard > self._read_timeout:
                connection.fail(TimeoutError(f"the server was silent for {self._read_timeout:g} s"))
        for connection in [one for one in self._idle if now - one.heard > KEEPALIVE]:
            self._idle.remove(connection)
            connection.abort()
        due = now + min(1.0, self._read_timeout / 4)
        self._timer = loop.call_at(due, self._watch, due)
