"""Read and decompress request bodies within limits of size and time."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import anyio
from starlette.requests import ClientDisconnect, Request

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_WINDOW = 31  # zlib: the largest window, with a gzip header
_DRAIN_FACTOR = 4
_FIRST_SHARE = 64 * 1024
_ROOM_TIMEOUT = 5.0
_LOOK_AGAIN = 0.25
_STALLED_AFTER = 2.0


class BodyError(Exception):
    """The body is unusable; `status` and the message are the response."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a body: `max_size` bytes, before and after decompression.

    A pause may last `timeout` seconds, and from `timeout` seconds after the start the average rate must be at
    least `min_rate` bytes per second.
    """

    max_size: int
    timeout: float
    min_rate: int


class InflightBytes:
    """Bytes of all bodies being read.

    A request's share grows with the bytes received, so one that declares much and sends little holds little.
    When there is no room, the request that has been idle longest is ended. `used` are the bytes held now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        self._shares: set[Share] = set()
        self._freed = anyio.Event()

    @property
    def has_room(self) -> bool:
        """Return whether another body may start."""
        return self.used < self._limit

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Open the share of one request; it is released at the end."""
        share = Share(self)
        self._shares.add(share)
        try:
            yield share
        finally:
            self._shares.discard(share)
            self.used -= share.size
            freed, self._freed = self._freed, anyio.Event()
            freed.set()

    async def take(self, size: int) -> None:
        """Wait for room and take it. Raises BodyError (429) after a few seconds."""
        with anyio.move_on_after(_ROOM_TIMEOUT):
            while not self.has_room:
                self.make_room()
                with anyio.move_on_after(_LOOK_AGAIN):
                    await self._freed.wait()
        if not self.has_room:
            raise BodyError(429, "Too many requests")
        self.used += size

    def make_room(self) -> None:
        """End the request that has been idle longest, if for more than two seconds."""
        if self.has_room:
            return
        now = anyio.current_time()
        waiting = [one for one in self._shares if one.reading is not None]
        stalled = [one for one in waiting if now - one.since > _STALLED_AFTER]
        if stalled:
            share = min(stalled, key=lambda one: one.since)
            assert share.reading is not None
            share.reading.cancel()


class Share:
    """The bytes held by one request. `reading` is the scope of its current wait, which began at `since`."""

    def __init__(self, inflight: InflightBytes) -> None:
        self._inflight = inflight
        self.size = 0
        self.reading: anyio.CancelScope | None = None
        self.since = 0.0

    async def grow(self, size: int, end: int) -> None:
        """Hold at least `size` bytes; doubles each time, up to `end`. Raises BodyError (429)."""
        if size <= self.size:
            return
        wanted = max(size, min(max(2 * self.size, _FIRST_SHARE), end))
        await self._inflight.take(wanted - self.size)
        self.size = wanted


async def read_body(request: Request, limits: BodyLimits, share: Share) -> bytes:
    """Read the whole body, decompressed for `Content-Encoding: gzip`, without a byte order mark.

    Raises BodyError: 413 beyond the size, 415 for another encoding, 400 for a broken body or gzip stream, 408
    for one that arrives too slowly, 429 when there is no room for it.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise BodyError(415, "Unsupported content encoding; only gzip is supported")
    length = request.headers.get("content-length", "")
    declared = int(length[:20]) if length.isascii() and length.isdigit() else 0
    async with aclosing(_in_time(request, limits, share)) as stream:
        if declared > limits.max_size:
            await _drain(stream, limits.max_size)
            raise _too_large(limits.max_size)
        try:
            if encoding in ("gzip", "x-gzip"):
                body = await _unzip(stream, limits.max_size, share)
            else:
                body = await _plain(stream, limits.max_size, share, declared or limits.max_size)
        except ClientDisconnect as error:
            raise BodyError(400, "Failed to read request body") from error
    return body.removeprefix(_BYTE_ORDER_MARK)


async def _in_time(request: Request, limits: BodyLimits, share: Share) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body. Raises BodyError (408) when they arrive too slowly."""
    started = anyio.current_time()
    received = 0
    async with aclosing(request.stream()) as stream:
        while True:
            now = anyio.current_time()
            left = started + limits.timeout + received / limits.min_rate - now
            with anyio.move_on_after(min(left, limits.timeout)) as scope:
                share.reading, share.since = scope, now
                chunk = await anext(stream, None)
            share.reading = None
            if scope.cancelled_caught:
                raise BodyError(408, "The request body arrived too slowly")
            if chunk is None:
                return
            received += len(chunk)
            yield chunk


def _too_large(max_size: int) -> BodyError:
    return BodyError(413, f"Request body too large. Maximum size is {max_size} bytes")


async def _plain(stream: AsyncIterator[bytes], max_size: int, share: Share, end: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_size:
            await _drain(stream, max_size)
            raise _too_large(max_size)
        await share.grow(size, end)
        chunks.append(chunk)
    return b"".join(chunks)


async def _unzip(stream: AsyncIterator[bytes], max_size: int, share: Share) -> bytes:
    body = bytearray()
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    is_started = False
    try:
        async for chunk in stream:
            while chunk:
                if decoder.eof:  # another member follows
                    decoder = zlib.decompressobj(_GZIP_WINDOW)
                is_started = True
                # stop one byte above the limit, so that a decompression bomb is never unpacked
                body += decoder.decompress(chunk, max_size + 1 - len(body))
                if len(body) > max_size:
                    await _drain(stream, max_size)
                    raise _too_large(max_size)
                await share.grow(len(body), max_size)
                chunk = decoder.unconsumed_tail or decoder.unused_data
    except zlib.error as error:
        await _drain(stream, max_size)
        raise BodyError(400, "Failed to read request body") from error
    if is_started and not decoder.eof:
        raise BodyError(400, "Failed to read request body")
    return bytes(body)


async def _drain(stream: AsyncIterator[bytes], max_size: int) -> None:
    """Keep reading for a while: a client that is cut off while sending often never sees the answer."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > _DRAIN_FACTOR * max_size:
            return
