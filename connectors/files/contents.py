"""The content of a file: unpacked and converted to UTF-8."""

from __future__ import annotations

import codecs
import io
import os
import stat
from typing import Any, cast

from connectors.objects.compression import PackedError, unpacking_errors
from connectors.objects.unpacking import DerivedFile, open_unpacked

_PIECE = 256 * 1024
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_descriptor(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file without blocking, as opening a pipe without a writer would."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


def open_content(path: str, limit: int | None = None, *, growing: bool = False) -> io.BufferedReader[Any]:
    """Open a regular file for reading its content from the beginning.

    Args:
        path: path on the operating system.
        limit: maximum bytes to read of a UTF-16 or UTF-32 file; others are read to the end.
        growing: allow such a file to end inside a character that is still being written.

    Raises:
        OSError: it cannot be opened, or is a pipe, socket or device, which is never waited for.
        One of `content_errors`: it is damaged, here or while it is read.
    """
    descriptor = open_descriptor(path)
    file = open(descriptor, "rb")  # noqa: SIM115 - the caller closes it
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "it is a pipe, socket or device")
        if not info.st_size:
            return file  # an empty file is not damaged, even if its name ends in .gz
        unpacked = open_unpacked(file, path)
        limit = limit if unpacked is file else None
        file = unpacked
        encoding = _wide_encoding(file.peek(4)[:4])
        if encoding is not None:
            recoded = _Recoded(file, encoding, limit, growing=growing)
            return io.BufferedReader(cast(io.RawIOBase, recoded), _PIECE)
        return file
    except BaseException:
        file.close()
        raise


def is_wide(path: str) -> bool:
    """True for UTF-16 and UTF-32 with a byte order mark.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = open_descriptor(path)
    try:
        return (
            stat.S_ISREG(os.fstat(descriptor).st_mode)
            and _wide_encoding(os.pread(descriptor, 4, 0)) is not None
        )
    finally:
        os.close(descriptor)


def content_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions for damaged content; they include OSError, which has no errno then."""
    return (UnicodeDecodeError, PackedError, *unpacking_errors())


def _wide_encoding(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


class _Recoded(DerivedFile):
    """A UTF-16 or UTF-32 file, read as UTF-8. Invalid text raises `UnicodeDecodeError`."""

    def __init__(
        self, file: io.BufferedReader[Any], encoding: str, limit: int | None, *, growing: bool
    ) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = limit
        self._growing = growing
        self._ended = False

    def more(self) -> bytes:
        while not self._ended:
            size = _PIECE if self._left is None else min(_PIECE, self._left)
            data = self._file.read1(size)
            if self._left is not None:
                self._left -= len(data)
            self._ended = not data
            if made := self._decoder.decode(data, self._ended and not self._growing).encode():
                return made
        return b""
