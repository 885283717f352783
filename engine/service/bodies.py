"""Request bodies: read with a bound, unzipped with a bound."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

__all__ = ["BodyError", "InflightBytes", "read_body"]

_GZIP_WINDOW = 31  # zlib: the largest window, with a gzip header
_DRAIN_FACTOR = 4


class BodyError(Exception):
    """The body cannot be used; `status` and the text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class InflightBytes:
    """Bytes of all bodies that are being read or waited for; `has_room` says whether another may start."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def has_room(self) -> bool:
        return self._used < self._limit

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """One request's share: call what this gives with every size taken; the end gives all back."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            taken += size
            self._used += size

        try:
            yield take
        finally:
            self._used -= taken


async def read_body(request: Request, max_size: int, take: Callable[[int], None]) -> bytes:
    """The whole body, unzipped if it says `Content-Encoding: gzip`; its size goes to `take` early.

    Raises BodyError: 413 beyond `max_size` bytes (before or after unzipping), 415 for another encoding, 400
    for a broken body or gzip stream.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise BodyError(415, "Unsupported content encoding; only gzip is supported")
    stream = request.stream()
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_size:
        await _drain(stream, max_size)
        raise _too_large(max_size)
    try:
        if encoding in ("gzip", "x-gzip"):
            return await _unzip(stream, max_size, take)
        if length.isdigit():
            take(int(length))  # before reading it, so that many at once do not all find room
            return await _plain(stream, max_size, lambda _: None)
        return await _plain(stream, max_size, take)
    except ClientDisconnect as error:
        raise BodyError(400, "Failed to read request body") from error


def _too_large(max_size: int) -> BodyError:
    return BodyError(413, f"Request body too large. Maximum size is {max_size} bytes")


async def _plain(stream: AsyncIterator[bytes], max_size: int, take: Callable[[int], None]) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_size:
            await _drain(stream, max_size)
            raise _too_large(max_size)
        take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def _unzip(stream: AsyncIterator[bytes], max_size: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    is_started = False
    try:
        async for chunk in stream:
            while chunk:
                if decoder.eof:  # another member follows
                    decoder = zlib.decompressobj(_GZIP_WINDOW)
                is_started = True
                # One byte more than allowed is enough to know: a bomb is never unpacked.
                part = decoder.decompress(chunk, max_size + 1 - len(body))
                take(len(part))
                body += part
                if len(body) > max_size:
                    await _drain(stream, max_size)
                    raise _too_large(max_size)
                chunk = decoder.unconsumed_tail or decoder.unused_data
    except zlib.error as error:
        await _drain(stream, max_size)
        raise BodyError(400, "Failed to read request body") from error
    if is_started and not decoder.eof:
        raise BodyError(400, "Failed to read request body")
    return bytes(body)


async def _drain(stream: AsyncIterator[bytes], max_size: int) -> None:
    """Read on for a while: a client that is cut off while sending often never sees the answer."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > _DRAIN_FACTOR * max_size:
            return
