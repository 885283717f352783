"""Track how far earlier runs delivered a file, and whether it is still the same file.

A bookmark of a file that grows is the place behind the last delivered line, with digests of that line and of
the file's beginning: a file that was cut off, rotated or rewritten since does not have them any more. Of a
packed file, which cannot be gone on with, it is the size and the trailer of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from connectors.files.finding import FilePart
from connectors.files.lines import LinePage
from engine.contract.types import JsonValue
from engine.errors import FatalError

__all__ = ["FileMarks", "bookmarked", "find_unread"]

HEAD_BYTES = 1024
TRAILER_BYTES = 8  # CRC-32 and length of the content (RFC 1952, section 2.3.1)

Mark = Mapping[str, Any]
"""The value of a bookmark."""


def bookmarked(path: str) -> str:
    """Return the key of a file's bookmark."""
    return os.path.normpath(path)


def find_unread(files: Sequence[FilePart], marks: Mapping[str, Mark]) -> list[FilePart]:
    """Find what earlier runs have not delivered of these files; `marks` are their bookmarks.

    Raises:
        FatalError: a file cannot be read.
    """
    left = (_unread(file, marks.get(bookmarked(file.path))) for file in files)
    return [part for part in left if part is not None]


def _unread(file: FilePart, mark: Mark | None) -> FilePart | None:
    if file.size == 0:
        return None
    file = replace(file, fingerprint=_fingerprint(file))
    if mark is None:
        return file
    if not _is_same(file, mark):
        return replace(file, reading=mark["reading"] + 1)
    if file.packed or file.size == mark["offset"]:
        return None
    return replace(file, reading=mark["reading"], since=mark)


class FileMarks:
    """Create the bookmarks of one file while it is read.

    Raises:
        FatalError: the file cannot be read, or is not the one that is to be gone on with.
    """

    def __init__(self, part: FilePart) -> None:
        same = part.since is None or _is_same(part, part.since)
        if not same or _fingerprint(part) != part.fingerprint:
            raise FatalError(
                f"{part.path} was replaced after the run started: start a new run to read the current content"
            )
        self._part = part
        self._head = b"" if part.packed else _bytes_of(part.path, 0, HEAD_BYTES)

    def behind(self, page: LinePage) -> JsonValue:
        """Return the bookmark for everything up to the end of a page."""
        head = self._head[: page.end.offset]
        last = page.lines[-1]  # None: too long to be kept, so the beginning has to do
        return {
            "offset": page.end.offset,
            "line": page.end.line,
            "reading": self._part.reading,
            "head": _digest(head),
            "head_bytes": len(head),
            "last": _digest(last) if last is not None else "",
            "last_bytes": len(last) if last is not None else 0,
        }

    def whole(self) -> JsonValue:
        """Return the bookmark of a compressed file delivered to its end."""
        part = self._part
        return {"size": part.size, "trailer": part.fingerprint, "reading": part.reading}


def _is_same(file: FilePart, mark: Mark) -> bool:
    if file.packed:
        return (file.size, _fingerprint(file)) == (mark["size"], mark["trailer"])
    if file.size < mark["offset"] or _digest(_bytes_of(file.path, 0, mark["head_bytes"])) != mark["head"]:
        return False
    length = mark["last_bytes"]
    # with its line end; what stands before a first line may be a byte order mark
    line = _bytes_of(file.path, mark["offset"] - length - 1, length + 1)
    return line.endswith(b"\n") and (not mark["last"] or _digest(line[:-1]) == mark["last"])


def _fingerprint(file: FilePart) -> str:
    if file.packed:
        return _bytes_of(file.path, max(0, file.size - TRAILER_BYTES), TRAILER_BYTES).hex()
    return _digest(_bytes_of(file.path, 0, min(file.size, HEAD_BYTES)))


def _bytes_of(path: str, start: int, count: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), count, start)
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]
