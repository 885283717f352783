"""Limits of connections: number, header sizes and times, and stalled readers.

uvicorn only limits idle connections. Without these limits, a few hundred clients that send slowly, or
nothing, could exhaust shared resources.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.service.settings import ServiceSettings

_MAX_HEAD = 64 * 1024
_UPGRADE = re.compile(rb"(\r\nconnection:[^\r\n]*?)upgrade", re.IGNORECASE)
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_OTHER_FILES = 100  # file descriptors that the process needs in addition to connections
_TOO_LARGE = (431, "Request Header Fields Too Large", "Request headers too large")
_NO_REQUEST = (400, "Bad Request", "This is not a valid request of HTTP/1.1")
_NO_TLS = (400, "Bad Request", "This service speaks HTTP/1.1 without TLS: use http://, not https://")
_NO_HTTP_2 = (505, "HTTP Version Not Supported", "This service speaks HTTP/1.1 only: turn HTTP/2 off")
_OTHER_PROTOCOLS = {b"PRI * HT": _NO_HTTP_2, b"\x16": _NO_TLS}
"""The answers to clients of other protocols, by the first bytes that they send."""
_TOO_MANY = (503, "Service Unavailable", "Too many connections")


def bounded_protocol(settings: ServiceSettings) -> type[HttpToolsProtocol]:
    """Return the protocol class of a service with these settings."""
    descriptors = _descriptors()
    members = {
        "header_timeout": settings.header_timeout,
        "write_timeout": settings.write_timeout,
        "body_timeout": settings.body_timeout,
        "max_connections": min(settings.max_connections, descriptors - min(_OTHER_FILES, descriptors // 2)),
    }
    return type("BoundedProtocol", (_BoundedProtocol,), members)


def _descriptors() -> int:
    """Return how many files and sockets the process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return _OTHER_FILES * 100
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft > 0 else _OTHER_FILES * 100


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on one connection."""

    header_timeout: float
    write_timeout: float
    body_timeout: float
    max_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_size = 0
        self._is_refused = False
        self._first = b""
        self._rest = b""
        self._in_first_line = False
        self.idle_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Return whether the connection has no request in progress, except perhaps headers."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _expects_head(self) -> bool:
        """Return whether the next bytes are those of a request's head, and not of a body."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; if there are too many, end the one that has been idle longest."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._expect_head()
        if len(self.connections) > self.max_connections and not self._evict():
            self._refuse(*_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel its timers."""
        self._stop_timer()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the headers have become too large."""
        if self._is_refused:
            return
        size = len(data)
        if self._expects_head:
            data = self._readable(data)
            if self._timer is None:
                self._expect_head()
        if data:
            super().data_received(data)
        if self._in_head:
            self._head_size += size
            if self._head_size > _MAX_HEAD:
                self._refuse(*_TOO_LARGE)

    def _readable(self, data: bytes) -> bytes:
        """Return bytes of a head as the parser takes them: whole lines, without a request to upgrade."""
        self._first = ((self._first if self._in_head else b"") + data)[:8]
        data, self._rest = _whole_lines(self._rest + data)
        data = _without_upgrade(data)
        self._in_first_line = self._in_first_line or not self._in_head
        if self._in_first_line:
            line, end, rest = data.partition(b"\r\n")
            self._in_first_line = not end
            data = _NOT_ASCII.sub(_encoded, line) + end + rest
        return data

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not a request of HTTP/1.1."""
        if self._is_refused:
            return
        found = (answer for start, answer in _OTHER_PROTOCOLS.items() if self._first.startswith(start))
        self._refuse(*next(found, _NO_REQUEST))

    def on_message_begin(self) -> None:
        """A request's headers begin."""
        self._in_head, self._head_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too large."""
        self._in_head = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MAX_HEAD:
            self._refuse(*_TOO_LARGE)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived completely."""
        if self._is_refused:
            return
        if self.cycle.response_complete:  # a request that was not read has ended
            self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request.

        The rest of a rejected body is discarded for a while: a client that is cut off while sending often
        never sees the answer.
        """
        self.idle_since = self.loop.time()
        if self.cycle.more_body and not self.pipeline and self._timer is None:
            self._timer = self.loop.call_later(self.body_timeout, self._end)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read: start a timer."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout, self._end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self.is_idle and not self.transport.is_closing():
            self.transport.abort()

    def _evict(self) -> bool:
        """End the connection that has been idle longest; return whether there was one."""
        others = (one for one in self.connections if one is not self and isinstance(one, _BoundedProtocol))
        idle = [one for one in others if one.is_idle and not one.transport.is_closing()]
        if not idle:
            return False
        min(idle, key=lambda one: one.idle_since).transport.abort()
        return True

    def _refuse(self, status: int, reason: str, text: str) -> None:
        self._is_refused = True
        self._in_head = False
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        head += "Retry-After: 1\r\n" if status == _TOO_MANY[0] else ""
        rest = f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}"
        self.transport.write((head + rest).encode())
        self.transport.close()


def _whole_lines(data: bytes) -> tuple[bytes, bytes]:
    """Divide the beginning of a head before its last line, which may be incomplete; a whole head is kept."""
    end = len(data) if b"\r\n\r\n" in data else data.rfind(b"\r\n")
    end = len(data) - data.endswith(b"\r") if end < 0 else end  # the first line needs not be complete
    if data.count(b"\n", end) > 1:
        end = len(data)  # it does not end its lines as HTTP/1.1 does, which the parser reports
    return data[:end], data[end:]


def _encoded(byte: re.Match[bytes]) -> bytes:
    """Percent-encode a byte of an address: curl sends letters beyond ASCII as they are."""
    return b"%%%02X" % byte[0][0]


def _without_upgrade(data: bytes) -> bytes:
    """Return the headers without a request to upgrade the protocol.

    Clients such as Java's request HTTP/2 with their first request, which httptools treats as the request's
    end, so its body would be lost.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    return _UPGRADE.sub(rb"\1ignored", head) + data[len(head) :] if _UPGRADE.search(head) else data
