"""Compressed content: its kinds by name, and its errors."""

from __future__ import annotations

import sys
import zlib
from typing import Any, Final

from engine.errors import FatalError

_SUFFIXES: Final = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd"}


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
