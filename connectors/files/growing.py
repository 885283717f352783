"""Track how far earlier runs delivered a file, and whether it is still the same file.

A bookmark of a file is the position after the last delivered line, with digests of that line and of the
beginning of the file, which no longer match if the file was truncated, rotated or rewritten. It is stored
under the file's path and under a digest of its beginning, so a file that was renamed, copied away or packed
is recognised and continued. Positions count bytes of the content, which differs from the file for packed
files and UTF-16.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

from connectors.files.contents import content_errors, is_wide, open_content, open_descriptor
from connectors.files.errors import FileUnreadableError, unreadable
from connectors.files.finding import FilePart
from connectors.objects.lines import LinePage, Place
from engine.contract.bookmarks import Bookmark

BY_PATH, BY_CONTENT = "", "content"
"""The scopes of bookmarks."""

HEAD_BYTES = 1024
TRAILER_BYTES = 8  # of gzip: CRC-32 and length of the content (RFC 1952, section 2.3.1)

Mark = Mapping[str, Any]
"""The value of a bookmark."""


class Stranger(NamedTuple):
    """A file with an unknown path, and the keys under which its content may be known."""

    part: FilePart
    keys: Sequence[str]


def bookmarked(path: str) -> str:
    """Return the key of a file's bookmark by path."""
    return os.path.normpath(path)


def find_unread(
    files: Sequence[FilePart], marks: Mapping[str, Mark]
) -> tuple[list[FilePart], list[Stranger], int]:
    """Return what earlier runs have not delivered, files with unknown paths, and the number without news.

    A file that cannot be read is kept: reading it reports the error.
    """
    parts: list[FilePart] = []
    strangers: list[Stranger] = []
    unchanged = 0
    for file in files:
        if file.problem:
            parts.append(file)
            continue
        if file.size == 0:
            unchanged += 1
            continue
        try:
            found = _unread(file, marks.get(bookmarked(file.path)))
        except FileUnreadableError as error:
            found = replace(file, problem=str(error).partition(f"{file.path}: ")[2] or str(error))
        if isinstance(found, Stranger):
            strangers.append(found)
        elif found is not None:
            parts.append(found)
        else:
            unchanged += 1
    return parts, strangers, unchanged


def _unread(file: FilePart, mark: Mark | None) -> FilePart | Stranger | None:
    file = replace(file, fingerprint=_fingerprint(file))
    if mark is None:
        return Stranger(file, _content_keys(file))
    if (mark.get("size"), mark.get("trailer")) == (file.size, file.fingerprint):
        return None  # read to its end, and unchanged since
    if _is_same(file, mark):
        at_end = not _is_derived(file) and file.size == mark["offset"]
        return None if at_end else replace(file, reading=mark["reading"], since=mark)
    return Stranger(replace(file, reading=mark["reading"] + 1), _content_keys(file))


def find_moved(stranger: Stranger, marks: Mapping[str, Mark]) -> FilePart | None:
    """Return the unread part of a file with an unknown path; None if all of it was delivered.

    `marks` are bookmarks by content. One applies if this file has the content it describes and the file at
    its path no longer has: a copy next to its original is a new file.
    """
    file = stranger.part
    candidates = [marks[key] for key in stranger.keys if key in marks]
    for mark in sorted(candidates, key=lambda mark: -int(mark["offset"])):
        if bookmarked(mark["path"]) == bookmarked(file.path):
            continue
        try:
            moved = _is_same(file, mark) and not _is_still_there(mark)
        except FileUnreadableError:
            continue  # reading it reports the error
        if moved:
            at_end = not _is_derived(file) and file.size == mark["offset"]
            return None if at_end else replace(file, since=mark)
    return file


class FileMarks:
    """Create the bookmarks of one file while it is read.

    Raises:
        FileUnreadableError: the file cannot be read, or is not the one to continue.
    """

    def __init__(self, part: FilePart) -> None:
        same = part.since is None or _is_same(part, part.since)
        if not same or _fingerprint(part) != part.fingerprint:
            raise FileUnreadableError(
                f"{part.path} was replaced after the run started: "
                "start a new run to read the current content",
                record_kind="FileChanged",
            )
        self._part = part
        self._head = _content_of(part, 0, HEAD_BYTES)
        self._mark: Mark | None = part.since
        self.derived = _is_derived(part)

    def after(self, page: LinePage) -> list[Bookmark]:
        """Return the bookmarks for when everything up to the end of a page is delivered."""
        head = self._head[: page.end.offset]
        last = page.lines[-1]  # None if it is too long to keep; the beginning has to suffice
        self._mark = {
            "path": self._part.path,
            "offset": page.end.offset,
            "line": page.end.line,
            "reading": self._part.reading,
            "head": _digest(head),
            "head_bytes": len(head),
            "last": _digest(last) if last is not None else "",
            "last_bytes": len(last) if last is not None else 0,
        }
        return self._bookmarks(self._mark)

    def whole(self, end: Place) -> list[Bookmark]:
        """Return the bookmarks at the end of a packed or UTF-16 file, whose size shows whether it grows."""
        known = self._mark or {
            "path": self._part.path,
            "offset": end.offset,
            "line": end.line,
            "head": _digest(self._head),
            "head_bytes": len(self._head),
            "last": "",
            "last_bytes": 0,
        }
        seen = {"reading": self._part.reading, "size": self._part.size, "trailer": self._part.fingerprint}
        return self._bookmarks({**known, **seen, "path": self._part.path})

    def _bookmarks(self, mark: Mark) -> list[Bookmark]:
        by_path = Bookmark(BY_PATH, bookmarked(self._part.path), mark)
        return [by_path, Bookmark(BY_CONTENT, _content_key(self._head[: mark["head_bytes"]]), mark)]


def _content_key(head: bytes) -> str:
    """Return the digest of a file's beginning: 1 KB, or the first line of a smaller file."""
    return _digest(head if len(head) >= HEAD_BYTES else head.partition(b"\n")[0])


def _content_keys(file: FilePart) -> list[str]:
    """Return the keys that bookmarks of this content may have; it may have been smaller then."""
    head = _content_of(file, 0, HEAD_BYTES)
    return list(dict.fromkeys([_content_key(head), _digest(head.partition(b"\n")[0])]))


def _is_derived(file: FilePart) -> bool:
    """Return whether positions in the content differ from those in the file."""
    try:
        return file.packed or is_wide(file.os_path)
    except OSError as error:
        raise unreadable(file.path, error) from error


def _is_still_there(mark: Mark) -> bool:
    try:
        file = FilePart.of(mark["path"], os.stat(mark["path"]).st_size)
        return _is_same(file, mark)
    except (OSError, FileUnreadableError):
        return False


def _is_same(file: FilePart, mark: Mark) -> bool:
    if not _is_derived(file) and file.size < mark["offset"]:
        return False
    if _digest(_content_of(file, 0, mark["head_bytes"])) != mark["head"]:
        return False
    length = mark["last_bytes"]
    # with its line end; a first line may follow a byte order mark
    line = _content_of(file, mark["offset"] - length - 1, length + 1)
    return line.endswith(b"\n") and (not mark["last"] or _digest(line[:-1]) == mark["last"])


def _fingerprint(file: FilePart) -> str:
    if file.packed:
        return _bytes_of(file, max(0, file.size - TRAILER_BYTES), TRAILER_BYTES).hex()
    return _digest(_bytes_of(file, 0, min(file.size, HEAD_BYTES)))


def _content_of(file: FilePart, start: int, count: int) -> bytes:
    """Return bytes of the content; fewer if it ends or is damaged."""
    if not _is_derived(file):
        return _bytes_of(file, start, count)
    try:
        with open_content(file.os_path, growing=True) as content:
            left = start
            while left > 0 and (skipped := content.read(min(left, 1 << 18))):
                left -= len(skipped)
            return content.read(count) if left == 0 else b""
    except content_errors():
        return b""


def _bytes_of(file: FilePart, start: int, count: int) -> bytes:
    try:
        descriptor = open_descriptor(file.os_path)
        try:
            return os.pread(descriptor, count, max(start, 0))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(file.path, error) from error


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]
