"""Compressed content: gzip, bzip2, xz and Zstandard files and streams, and HTTP content encodings.

Concatenated members are one content. Truncated or damaged content is an error, and nothing is unpacked beyond
a limit.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, cast

from engine.errors import FatalError

if TYPE_CHECKING:
    from brotli import Decompressor  # type: ignore[import-untyped]

__all__ = [
    "PackedError",
    "UnpackedTooLargeError",
    "is_packed",
    "kind_of",
    "unpack_body",
    "unpacking_errors",
    "zstd",
]

_SUFFIXES: Final = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd"}
_MAGIC: Final = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
_PIECE = 256 * 1024


class PackedError(ValueError):
    """The compressed content is damaged or truncated."""


class UnpackedTooLargeError(ValueError):
    """The decompressed content would exceed its limit."""


def is_packed(name: str) -> bool:
    """Return whether a file of this name is decompressed while it is read."""
    return kind_of(name) is not None


def kind_of(name: str) -> str | None:
    """Return the compression of a file by its name, or None."""
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def unpacking_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions for damaged compressed content.

    They include OSError, which gzip and bzip2 raise without an errno.
    """
    import lzma

    known = (EOFError, OSError, zlib.error, lzma.LZMAError)
    try:
        return (*known, zstd().ZstdError)
    except FatalError:
        return known  # modules that are not installed cannot raise


def zstd() -> Any:
    """Import the standard library's module (Python 3.14) or its backport.

    Raises:
        FatalError: it is not installed.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise FatalError(
            "Zstandard files need a module that is not installed: pip install 'odw-engine[s3]'"
        ) from error
    return zstd


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
        unpack = _BODIES.get(name.removeprefix("x-"))
        if unpack is None:
            continue
        found = unpack(data, limit)
        if found is None:
            break
        data, unpacked = found, True
    return data if unpacked else None


def _unpacked(file: IO[bytes], kind: str) -> IO[bytes]:
    # imported lazily: few runs need them
    if kind == "gzip":
        import gzip

        return cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb"))
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(file)
    if kind == "xz":
        import lzma

        return lzma.LZMAFile(file)
    return cast(IO[bytes], zstd().ZstdFile(file))


def _from_file(kind: str) -> Callable[[bytes, int], bytes | None]:
    def unpack(data: bytes, limit: int) -> bytes | None:
        if not data.startswith(_MAGIC[kind]):
            return None
        try:
            with _unpacked(io.BytesIO(data), kind) as file:
                found = file.read(limit + 1)
        except unpacking_errors() as error:
            raise PackedError(f"its {kind} data is damaged: {error}") from error
        return _within(found, limit)

    return unpack


def _deflate(data: bytes, limit: int) -> bytes | None:
    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):  # with the standard's header, or without it
        unpacker = zlib.decompressobj(bits)
        try:
            found = _within(unpacker.decompress(data, limit + 1), limit)
        except zlib.error:
            continue
        if not unpacker.eof:
            raise PackedError("its deflate data ends early")
        return found
    return None


def _brotli(data: bytes, limit: int) -> bytes | None:
    import brotli

    unpacker: Decompressor = brotli.Decompressor()
    pieces: list[bytes] = []
    total = 0
    try:
        found = unpacker.process(data, output_buffer_limit=_PIECE)
        while found or not unpacker.can_accept_more_data():
            pieces.append(found)
            total += len(found)
            if total > limit or unpacker.is_finished():
                break
            found = unpacker.process(b"", output_buffer_limit=_PIECE)
    except brotli.error as error:
        if not pieces and _is_utf8(data):
            return None  # brotli has no signature, but is hardly ever text
        raise PackedError("its brotli data is damaged") from error
    if total <= limit and not unpacker.is_finished():
        raise PackedError("its brotli data ends early")
    return _within(b"".join(pieces), limit)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _within(found: bytes, limit: int) -> bytes:
    if len(found) > limit:
        raise UnpackedTooLargeError(f"it has more than {limit:,} bytes when unpacked")
    return found


_BODIES: Final[dict[str, Callable[[bytes, int], bytes | None]]] = {
    "gzip": _from_file("gzip"),
    "bzip2": _from_file("bzip2"),
    "xz": _from_file("xz"),
    "zstd": _from_file("zstd"),
    "deflate": _deflate,
    "br": _brotli,
}
