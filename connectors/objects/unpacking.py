"""Decompress content, whole or chunk by chunk, within limits.

The compression is detected from the first bytes, even against a name or header. Deflate and Brotli have no
signature and are decompressed only if the Content-Encoding names them. Concatenated members are one content.
Truncated or damaged content is an error.
"""

from __future__ import annotations

import io
import math
import sys
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from connectors.json_lines import is_utf8
from connectors.objects.compression import PackedError, UnpackedTooLargeError, kind_of, unpacking_errors, zstd

MAX_OUTPUT = 256 * 1024
"""Maximum output bytes per step."""

MAX_LAYERS = 2
"""A `.gz` file that was uploaded with `Content-Encoding: gzip` may be compressed twice."""

HELD_BYTES = 4 * 1024 * 1024
"""Output of a member that is held back until its checksum, which follows the data, has been verified."""

RATIO_FROM = 64 * 1024 * 1024
"""Unpacked bytes below which any ratio is accepted, such as small files of one repeated byte."""

_BZIP2_BLOCK = b"1AY&SY"
_BZIP2_EMPTY = b"\x17\x72\x45\x38\x50\x90"
_UNSIGNED = {"deflate": "deflate", "br": "brotli"}


class _Decompressor(Protocol):
    """The common interface of the standard library's decompressors."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def packed_kind(head: bytes, name: str, content_encoding: str | None) -> str | None:
    """Detect the compression of content from its first bytes; return None without one.

    Raises:
        PackedError: its name indicates compression, but it is neither compressed nor text.
    """
    kind = _by_magic(head)
    if kind is not None or not head:
        return kind
    encodings = [one.strip().lower() for one in (content_encoding or "").split(",")]
    unsigned = next((one for one in reversed(encodings) if one in _UNSIGNED), None)
    if unsigned is not None and not _is_text(head):
        return unsigned
    named = kind_of(name)
    if named == "xz" and name.endswith(".lzma") and head.startswith(b"]\0\0"):
        return "xz"
    if named is not None and not _is_text(head):
        raise PackedError(f"its name ends like that of a {named} file, but it is not one")
    return None


def _by_magic(head: bytes) -> str | None:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if head.startswith(b"BZh") and head[4:10] in (_BZIP2_BLOCK, _BZIP2_EMPTY):
        return "bzip2"
    return None


def _is_text(head: bytes) -> bool:
    """Return whether this is the beginning of a UTF-8 text, perhaps truncated."""
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True


class StreamUnpacker:
    """Unpacks one content.

    Call `feed`, then `take` until it returns nothing; at the end feed no bytes, `take` again, and `finish`.
    Damage shows no later than at the end of a member: one of up to `HELD_BYTES` is returned only if it has
    none, or, if it is truncated, up to there.

    Args:
        kind: compression from `packed_kind`.
        max_bytes: maximum unpacked bytes.
        max_ratio: maximum ratio of unpacked to packed bytes, beyond 64 MiB.
    """

    def __init__(self, kind: str, *, max_bytes: int, max_ratio: float) -> None:
        self._kind = kind
        self._make = _DECOMPRESSORS[kind]
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._member: _Decompressor | None = None
        self._begun = False
        self._waiting = b""
        self._packed = self._unpacked = 0
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._sound = False  # the held bytes may be returned

    def feed(self, data: bytes) -> None:
        """Add the next packed bytes; none at the end."""
        self._sound = self._sound or not data
        self._packed += len(data)
        self._waiting += data

    def take(self) -> bytes:
        """Return the next unpacked bytes; none if more input is needed.

        Raises:
            PackedError: it is damaged.
            UnpackedTooLargeError: the output exceeds the limits.
        """
        while True:
            if self._sound and self._held:
                return self._held.popleft()
            if self._member is None and not self._begin():
                return b""
            member = self._member
            assert member is not None
            data, self._waiting = self._waiting, b""
            try:
                found = member.decompress(data, MAX_OUTPUT)
            except unpacking_errors() as error:
                raise PackedError(f"its {self._kind} data is damaged: {error}{self._doubt}") from error
            if member.eof:
                self._waiting, self._member = member.unused_data, None
            if found:
                self._unpacked += len(found)
                self._check()
                self._held.append(found)
                self._held_bytes += len(found)
            self._sound = self._sound or member.eof or self._held_bytes > HELD_BYTES
            if not found and self._member is not None:
                return b""

    def finish(self) -> None:
        """Check the end after everything was taken. Raises `PackedError` if the data is truncated."""
        if self._member is not None and self._begun:
            raise PackedError(f"its {self._kind} data ends early")

    def _begin(self) -> bool:
        """Begin the next member, if it has any bytes. Zeros between and after members are padding."""
        if self._begun:
            self._waiting = self._waiting.lstrip(b"\0")
        if not self._waiting:
            return False
        self._member, self._begun = self._make(), True
        self._held_bytes, self._sound = 0, False
        return True

    @property
    def _doubt(self) -> str:
        """What damage means for the bytes that were returned, for a message."""
        if self._held_bytes <= HELD_BYTES:
            return ""
        return "; check what was read of it before, which may be wrong"

    def _check(self) -> None:
        if self._unpacked > self._max_bytes:
            raise UnpackedTooLargeError(f"it has more than {self._max_bytes:,} bytes when unpacked")
        if self._unpacked > RATIO_FROM and self._unpacked > self._packed * self._max_ratio:
            raise UnpackedTooLargeError(
                f"it unpacks to more than {self._max_ratio:g} times its size, as only crafted files do"
            )


def unpack_whole(data: bytes, kind: str, *, max_bytes: int, max_ratio: float = math.inf) -> bytes:
    """Unpack all of a content; see `StreamUnpacker`.

    Raises:
        PackedError: it is damaged or truncated.
        UnpackedTooLargeError: the output exceeds the limits.
    """
    unpacker = StreamUnpacker(kind, max_bytes=max_bytes, max_ratio=max_ratio)
    pieces: list[bytes] = []
    # zlib copies the remaining input at each step: feed it in small pieces
    for start in range(0, len(data), MAX_OUTPUT):
        unpacker.feed(data[start : start + MAX_OUTPUT])
        pieces += iter(unpacker.take, b"")
    unpacker.finish()
    return b"".join(pieces)


def unpack_body(data: bytes, content_encoding: str | None, limit: int) -> bytes | None:
    """Undo the Content-Encoding of a body (RFC 9110, section 8.4).

    None if the body is empty, was not encoded, or was already unpacked and only the header remains.

    Raises:
        PackedError: it is damaged or truncated.
        UnpackedTooLargeError: more than `limit` bytes.
    """
    names = [one.strip().lower() for one in (content_encoding or "").split(",")] if data else []
    unpacked = False
    for name in reversed(names):
        kind = name.removeprefix("x-")
        if kind not in _DECOMPRESSORS:
            continue
        if kind in _UNSIGNED:
            found = _unpack_unsigned(data, kind, limit)
        else:
            found = unpack_whole(data, kind, max_bytes=limit) if _by_magic(data) == kind else None
        if found is None:
            break
        data, unpacked = found, True
    return data if unpacked else None


def _unpack_unsigned(data: bytes, kind: str, limit: int) -> bytes | None:
    member = _DECOMPRESSORS[kind]()
    try:
        found = member.decompress(data, limit + 1)
    except (zlib.error, EOFError) as error:
        if kind == "deflate" or is_utf8(data):
            return None  # they have no signature, but are hardly ever text
        raise PackedError(f"its {_UNSIGNED[kind]} data is damaged") from error
    if len(found) > limit:
        raise UnpackedTooLargeError(f"it has more than {limit:,} bytes when unpacked")
    if not member.eof:
        raise PackedError(f"its {_UNSIGNED[kind]} data ends early")
    return found


def open_unpacked(file: io.BufferedReader[Any], name: str) -> io.BufferedReader[Any]:
    """Open the content of a file, unpacked if both its name and its first bytes indicate compression.

    Closing it closes `file`. `read1` returns all content before damage.

    Raises:
        PackedError: it is damaged; raised here or while it is read.
    """
    if kind_of(name) is None:
        return file
    for layer in range(MAX_LAYERS):
        kind = packed_kind(file.peek(MAX_OUTPUT), "" if layer else name, None)
        if kind is None:
            break
        file = io.BufferedReader(cast(io.RawIOBase, _Unpacked(file, kind)), MAX_OUTPUT)
    return file


class DerivedFile(io.RawIOBase):
    """A converted view of a file's content. Closing it closes the file."""

    def __init__(self, file: io.BufferedReader[Any]) -> None:
        self._file = file
        self._ready = b""

    def more(self) -> bytes:
        """Return the next bytes of the content; none at its end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._ready:
            self._ready = self.more()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Unpacked(DerivedFile):
    """The content of a packed file."""

    def __init__(self, file: io.BufferedReader[Any], kind: str) -> None:
        super().__init__(file)
        self._unpacker = StreamUnpacker(kind, max_bytes=sys.maxsize, max_ratio=math.inf)
        self._ended = self._finished = False

    def more(self) -> bytes:
        while not self._finished:
            if made := self._unpacker.take():
                return made
            if self._ended:
                self._unpacker.finish()
                self._finished = True
            else:
                data = self._file.read1(MAX_OUTPUT)
                self._ended = not data
                self._unpacker.feed(data)
        return b""


class _Deflate:
    """Deflate with or without the standard's header."""

    def __init__(self) -> None:
        self._first = True
        self._inner: Any = zlib.decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int = MAX_OUTPUT, /) -> bytes:
        data = self._inner.unconsumed_tail + data
        try:
            found: bytes = self._inner.decompress(data, max_length)
        except zlib.error:
            if not self._first:
                raise
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            found = self._inner.decompress(data, max_length)
        self._first = False
        return found


class _Gzip(_Deflate):
    """One member of a gzip file."""

    def __init__(self) -> None:
        self._first = False
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)


class _Brotli:
    """A Brotli body, which has no members."""

    unused_data = b""

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._inner = brotli.Decompressor()
        self._error = brotli.error

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    def decompress(self, data: bytes, max_length: int = MAX_OUTPUT, /) -> bytes:
        try:
            return bytes(self._inner.process(data, output_buffer_limit=max_length))
        except self._error as error:
            raise EOFError(str(error)) from error


def _bzip2() -> _Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> _Decompressor:
    import lzma

    return lzma.LZMADecompressor()


def _zstandard() -> _Decompressor:
    made: _Decompressor = zstd().ZstdDecompressor()
    return made


_DECOMPRESSORS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gzip": _Gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "zstd": _zstandard,
    "deflate": _Deflate,
    "br": _Brotli,
}
