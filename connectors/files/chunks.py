"""The content of a file, or the standard input, in chunks and off the event loop's thread."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from connectors.files.contents import content_errors, open_content
from connectors.files.errors import FileUnreadableError, unreadable
from connectors.files.finding import FilePart
from connectors.objects.lines import ReadChunk

CHUNK_BYTES = 256 * 1024

T = TypeVar("T")


@asynccontextmanager
async def open_chunks(
    part: FilePart, offset: int = 0, *, growing: bool = False
) -> AsyncGenerator[ReadChunk, None]:
    """Open a file for reading its content from `offset` on.

    Packed files are unpacked, and UTF-16 and UTF-32 become UTF-8; `offset` counts bytes of that content.

    Raises:
        FileUnreadableError: it cannot be opened or read, or is damaged.
    """

    def begin() -> io.BufferedReader[Any]:
        file = open_content(part.os_path, part.size, growing=growing)
        try:
            if file.seekable():
                file.seek(offset)
            else:
                _skip(file, offset)
        except BaseException:
            file.close()
            raise
        return file

    file = await _in_thread(part.path, begin)
    try:
        # `read` of a packed file would lose data that precedes damage; `read1` of others returns only the few
        # bytes that were peeked at, which would make a small page
        read = file.read if file.seekable() else file.read1

        def next_chunk() -> bytes:
            data: bytes = read(CHUNK_BYTES)
            if not data:
                _check_size(part, os.fstat(file.fileno()).st_size)
            return data

        yield lambda: _in_thread(part.path, next_chunk)
    finally:
        file.close()


def _check_size(part: FilePart, size: int) -> None:
    """Raise if the file that was read to its end was truncated meanwhile, so that lines are missing."""
    if size < part.size:
        raise FileUnreadableError(
            f"{part.path} was truncated from {part.size:,} to {size:,} bytes while it was read; "
            "start a new run to read the current content",
            record_kind="FileChanged",
        )


def _skip(file: io.BufferedReader[Any], count: int) -> None:
    while count > 0:
        data = file.read1(min(count, CHUNK_BYTES))
        if not data:
            return
        count -= len(data)


async def _in_thread(path: str, work: Callable[[], T]) -> T:
    try:
        return await anyio.to_thread.run_sync(work)
    except OSError as error:
        # gzip and bzip2 raise OSError without an errno for a damaged file
        if error.errno is not None:
            raise unreadable(path, error) from error
        raise FileUnreadableError(f"{path} is damaged: {error}", record_kind="FileDamaged") from error
    except content_errors() as error:
        raise FileUnreadableError(f"{path} is damaged: {error}", record_kind="FileDamaged") from error


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
                pass  # a device that cannot be polled, such as /dev/null, never blocks either
        return await anyio.to_thread.run_sync(os.read, descriptor, CHUNK_BYTES)

    return read
