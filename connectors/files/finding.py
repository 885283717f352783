"""Find the files that a path matches, and how much of each to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.files.lines import Place
from engine.errors import FatalError

__all__ = ["MAX_ALTERNATIVES", "FilePart", "find_files", "read_limit"]

MAX_ALTERNATIVES = 1000
"""How many names the braces of a path may stand for."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part of a file to read.

    Args:
        size: bytes of the whole file when it was found.
        reading: how often runs have begun it, this time included: more than 1 after it was rewritten.
        since: the bookmark that it is gone on from; None: from its beginning.
        fingerprint: tells it from another file of the same name; "" when nobody asks.
    """

    path: str
    size: int = 0
    reading: int = 1
    since: Mapping[str, Any] | None = None
    fingerprint: str = ""

    @property
    def packed(self) -> bool:
        """Whether the file is decompressed while read, so that positions differ from byte offsets."""
        return self.path.endswith(".gz")

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


def find_files(path: str) -> list[FilePart]:
    """Find the matching files in name order, each as a whole.

    Raises:
        FatalError: no such file, or the path stands for too many alternatives.
    """
    if os.path.isfile(path):
        return [FilePart(path, os.stat(path).st_size)]
    # 20 ms of import that a plain name does not need
    import bracex
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.DOTGLOB | glob.NODIR
    if not glob.is_magic(path, flags=flags | glob.BRACE):
        raise FatalError(f"no such file: {path!r}")
    try:
        alternatives = bracex.expand(path, keep_escapes=True, limit=MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException as error:
        raise FatalError(f"the braces of {path!r} expand to more than {MAX_ALTERNATIVES} names") from error
    found = sorted(set(glob.iglob(alternatives, flags=flags, limit=MAX_ALTERNATIVES)))
    return [FilePart(one, os.stat(one).st_size) for one in found]


def read_limit(part: FilePart) -> int | None:
    """Return where reading stops: the file's size at the start of the run.

    None for packed files, which say nothing about their unpacked size.

    Raises:
        FatalError: it cannot be read, or is not what it was.
    """
    path, size = part.path, part.size
    try:
        now = os.stat(path).st_size
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error
    if now < size or (part.packed and now != size):
        raise FatalError(
            f"{path} has {now:,} bytes but had {size:,} when the run started: start a new run to read "
            "the current content"
        )
    return None if part.packed else size
