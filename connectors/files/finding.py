"""Find the files that a path matches, and how much of each to read."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.files.contents import open_descriptor
from connectors.files.errors import FileUnreadableError, unreadable
from connectors.files.walking import displayed, is_pattern, walk, without_escapes
from connectors.objects.compression import is_packed
from connectors.objects.lines import Place
from engine.errors import FatalError

TRIED = 100
"""Other files to try before all are taken to be unreadable."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part of a file to read.

    Args:
        path: path as text.
        size: size of the whole file when it was found, in bytes.
        reading: times that runs have started it from the beginning, including this one; more than 1 after it
            was rewritten.
        since: bookmark to continue from; None starts at the beginning.
        fingerprint: distinguishes it from another file of the same name; "" if not needed.
        raw: bytes of its path in hexadecimal digits, if they are not UTF-8.
        problem: why the file or folder cannot be read.
    """

    path: str
    size: int = 0
    reading: int = 1
    since: Mapping[str, Any] | None = None
    fingerprint: str = ""
    raw: str = ""
    problem: str = ""

    @classmethod
    def of(cls, path: str, size: int = 0, problem: str = "") -> FilePart:
        """Return the part that is the whole file at an OS path."""
        shown = displayed(path)
        raw = "" if shown == path else os.fsencode(path).hex()
        return cls(shown if raw else path, size, raw=raw, problem=problem)

    @property
    def os_path(self) -> str:
        """The path to open."""
        return os.fsdecode(bytes.fromhex(self.raw)) if self.raw else self.path

    @property
    def packed(self) -> bool:
        """True if it is unpacked while it is read, so positions are not offsets in the file."""
        return is_packed(self.path)

    @property
    def begun_anew(self) -> bool:
        """True if the file is not the one that an earlier run read."""
        return self.reading > 1 and self.since is None

    @property
    def name(self) -> str:
        """Name of the file in record keys; differs from the name of a file it replaced."""
        return self.path if self.reading == 1 else f"{self.path}#{self.reading}"

    @property
    def start(self) -> Place:
        """Position at which reading starts."""
        return Place(self.since["offset"], self.since["line"]) if self.since else Place()


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a path, and how many other entries were skipped, by kind."""

    parts: list[FilePart]
    skipped: Counter[str] = field(default_factory=Counter)


def find_files(path: str) -> Found:
    """Find whole files, sorted by name, and folders that cannot be read.

    Raises:
        FatalError: no such file, or the path has too many alternatives.
        FileUnreadableError: the path names a single file that cannot be read.
    """
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return Found([_named(path)])
    if not is_pattern(path):
        plain = without_escapes(path)
        return Found([_named(plain if os.path.exists(plain) and not os.path.exists(path) else path)])
    found = walk(path)
    parts = [FilePart.of(name, size) for name, size in found.files]
    parts += [FilePart.of(name, problem=reason) for name, reason in found.unreadable]
    return Found(parts, found.skipped)


def _named(path: str) -> FilePart:
    shown = displayed(path)
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise FatalError(f"no such file: {shown!r}") from None
    except (OSError, ValueError) as error:
        raise unreadable(shown, error if isinstance(error, OSError) else OSError(str(error))) from error
    if stat.S_ISDIR(info.st_mode):
        raise FatalError(f"{shown!r} is a folder: `{shown.rstrip('/')}/**` matches the files in it")
    if not stat.S_ISREG(info.st_mode):
        raise FatalError(
            f'{shown!r} is a pipe, socket or device: read it as the standard input, with `path: "-"`'
        )
    return FilePart.of(path, info.st_size)


def any_readable(path: str, besides: FilePart) -> bool:
    """Return whether another file that the path matches can be opened."""
    try:
        others = [part for part in find_files(path).parts if part.path != besides.path and not part.problem]
    except FatalError:
        return False
    for part in others[:TRIED]:
        try:
            with open(part.os_path, "rb", opener=open_descriptor):
                return True
        except OSError:
            continue
    return False


def read_limit(part: FilePart) -> int | None:
    """Return where reading stops: the file's size at the start of the run.

    None for packed files, whose unpacked size is not known.

    Raises:
        FileUnreadableError: it cannot be read, or has changed.
    """
    path, size = part.path, part.size
    if part.problem:
        kind = "FolderUnreadable" if os.path.isdir(part.os_path) else "FileUnreadable"
        raise FileUnreadableError(f"cannot read {path}: {part.problem}", record_kind=kind)
    try:
        now = os.stat(part.os_path).st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if now < size or (part.packed and now != size):
        raise FileUnreadableError(
            f"{path} has {now:,} bytes but had {size:,} when the run started: start a new run to read "
            "the current content",
            record_kind="FileChanged",
        )
    return None if part.packed else size
