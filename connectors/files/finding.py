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
from connectors.files.walking import MAX_ALTERNATIVES, displayed, is_pattern, walk, without_escapes
from connectors.objects.compression import is_packed
from connectors.objects.lines import Place
from engine.errors import FatalError

__all__ = ["MAX_ALTERNATIVES", "FilePart", "Found", "any_readable", "find_files", "read_limit"]

TRIED = 100
"""How many other files are opened to see whether any can be."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part of a file to read.

    Args:
        path: its name as text.
        size: bytes of the whole file when it was found.
        reading: how often runs have begun it, this time included: more than 1 after it was rewritten.
        since: the bookmark to continue from; None: the beginning.
        fingerprint: tells it from another file of the same name; "" when it is not needed.
        raw: the bytes of its name in hexadecimal digits, where they are not UTF-8.
        problem: why it, or the folder of this name, could not be looked into.
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
        """The whole file of a path as the operating system has it."""
        shown = displayed(path)
        raw = "" if shown == path else os.fsencode(path).hex()
        return cls(shown if raw else path, size, raw=raw, problem=problem)

    @property
    def os_path(self) -> str:
        """The path to open."""
        return os.fsdecode(bytes.fromhex(self.raw)) if self.raw else self.path

    @property
    def packed(self) -> bool:
        """True when it is unpacked while it is read, so that places in it are not those of its bytes."""
        return is_packed(self.path)

    @property
    def begun_anew(self) -> bool:
        """Whether the file is not the one that an earlier run read."""
        return self.reading > 1 and self.since is None

    @property
    def name(self) -> str:
        """Name of the file in record keys; differs from that of a file it replaced."""
        return self.path if self.reading == 1 else f"{self.path}#{self.reading}"

    @property
    def start(self) -> Place:
        """Position at which reading starts."""
        return Place(self.since["offset"], self.since["line"]) if self.since else Place()


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a path, and how many names stand for what is not read, by what it is."""

    parts: list[FilePart]
    skipped: Counter[str] = field(default_factory=Counter)


def find_files(path: str) -> Found:
    """The files in the order of their names, each as a whole, and folders that cannot be read.

    Raises:
        FatalError: no such file, or the path has too many alternatives.
        FileUnreadableError: the one file that is named cannot be read.
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
    """True when another file that a path matches can be opened."""
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

    None for packed files, which say nothing about their unpacked size.

    Raises:
        FileUnreadableError: it cannot be read, or is not what it was.
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
