"""Read files, compressed files and the standard input in chunks, off the event loop's thread."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import IO, TypeVar

import anyio
import anyio.to_thread

from engine.errors import FatalError

__all__ = ["CHUNK_BYTES", "ReadChunk", "open_chunks", "stdin_chunks"]

CHUNK_BYTES = 256 * 1024

T = TypeVar("T")

ReadChunk = Callable[[], Awaitable[bytes]]
"""Gives the next bytes, none at the end."""


@asynccontextmanager
async def open_chunks(path: str, offset: int = 0) -> AsyncGenerator[ReadChunk, None]:
    """Open a file for reading from `offset`; `.gz` is decompressed, and `offset` counts decompressed bytes.

    Raises:
        FatalError: it cannot be opened or read, or its gzip data is damaged.
    """

    def begin() -> IO[bytes] | gzip.GzipFile:
        file = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
        file.seek(offset)
        return file

    file = await _in_thread(path, begin)
    try:
        yield lambda: _in_thread(path, lambda: file.read(CHUNK_BYTES))
    finally:
        file.close()


async def _in_thread(path: str, work: Callable[[], T]) -> T:
    try:
        return await anyio.to_thread.run_sync(work)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FatalError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error


def stdin_chunks() -> ReadChunk:
    """Read the standard input as it arrives; a waiting read can be cancelled."""
    descriptor = sys.stdin.fileno()
    regular = stat.S_ISREG(os.fstat(descriptor).st_mode)

    async def read() -> bytes:
        if not regular:
            try:
                await anyio.wait_readable(descriptor)
                return os.read(descriptor, CHUNK_BYTES)
            except PermissionError:
                pass  # a device that cannot be waited for, such as /dev/null, never blocks either
        return await anyio.to_thread.run_sync(os.read, descriptor, CHUNK_BYTES)

    return read
