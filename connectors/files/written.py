"""Notes next to a file on what a run has written to it, so that a resumed run does not write it again.

Lines do not identify their records. Before each write, its keys are noted in `.NAME.RUN.written`, with the
offset, length and checksum of the lines. If a kill cuts the write short, the checksum does not match, and the
partial lines are removed. Any number of consecutive keys takes one entry. If a key may occur twice in a run,
the notes have no keys and only record that the run has begun to write. They are removed when the run
completes.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Self
from zlib import crc32

import orjson

from connectors.files.locking import locked
from connectors.objects.key_set import KeySet
from engine.contract.component import Context
from engine.contract.keys import Keys

__all__ = ["WrittenLog", "log_path", "mark_replaced"]

STANDALONE = Context().run_id
MAX_NAME = 255 - len("..0123456789abcdef.written")
"""Maximum bytes of a file's name in the name of its notes."""

REPLACED = b"replaced\n"
"""Replaces the notes if another run has replaced their file."""


def log_path(path: str, ctx: Context) -> Path | None:
    """Return the path of this run's notes; None without a run, which is never resumed."""
    if ctx.run_id == STANDALONE:
        return None
    name = sha256(f"{ctx.run_id}\n{ctx.node}\n{ctx.chunk}".encode()).hexdigest()[:16]
    file = Path(path)
    return file.with_name(f".{_short(file.name)}.{name}.written")


def _short(name: str) -> str:
    """Return the name, or its digest if the notes about it would have too long a name."""
    return name if len(os.fsencode(name)) <= MAX_NAME else sha256(os.fsencode(name)).hexdigest()


def mark_replaced(path: str) -> None:
    """Tell interrupted runs that another one replaces their lines. Raises OSError."""
    file = Path(path)
    for notes in file.parent.glob(f".{glob.escape(_short(file.name))}.{'[0-9a-f]' * 16}.written"):
        notes.write_bytes(REPLACED)


class WrittenLog:
    """The notes of one run about one file.

    Args:
        path: path of the notes; created with the first one.
        descriptor: descriptor of the file that lines are added to.
        keyed: keys are unique in the run, and are noted.

    Attributes:
        before: keys of lines that earlier attempts have added.
        gone: keys of lines that they noted and that are not in the file.
        lost: how many of those have not been written again.
        exists: an earlier attempt has begun writing.
        replaced: another run has replaced the file since.
    """

    def __init__(self, path: Path, descriptor: int, *, keyed: bool) -> None:
        self._path = path
        self._target = descriptor
        self._keyed = keyed
        self._descriptor = -1
        self.before, self.gone = KeySet(), KeySet()
        self.lost = 0
        self.exists = False
        self.replaced = False

    def open(self) -> Self:
        """Read the notes of earlier attempts, and remove lines of an incomplete write.

        Raises:
            OSError: the notes or the file cannot be read or written.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return self
        self.exists = True
        self.replaced = data.startswith(REPLACED)
        if self.replaced:
            return self
        end = data.rfind(b"\n") + 1
        notes = _parse(data[:end])
        with locked(self._target):
            kept = self._arrived(notes)
        for _, _, _, keys, ranges in kept:
            self.before.add(keys, ranges)
        self.before.close()
        for _, _, _, keys, ranges in notes[len(kept) :]:
            self.gone.add(keys, ranges)
            self.lost += len(keys) + sum(stop - start for _, start, stop in ranges)
        self.gone.close()
        self._open()
        os.ftruncate(self._descriptor, sum(len(orjson.dumps(one)) + 1 for one in kept))
        return self

    def _arrived(self, notes: list[_Note]) -> list[_Note]:
        """Return the notes whose lines are in the file."""
        if not notes or self._is_there(notes[-1]):
            return notes
        last, notes = notes[-1], notes[:-1]
        if notes and not self._is_there(notes[-1]):
            return []  # the file was removed, truncated or replaced: these lines are gone
        size = os.fstat(self._target).st_size
        if last[0] < size < last[0] + last[1]:
            os.ftruncate(self._target, last[0])
        return notes

    def _is_there(self, note: _Note) -> bool:
        place, length, checksum, _, _ = note
        return crc32(os.pread(self._target, length, place)) == checksum

    def unwritten(self, keys: Keys) -> Sequence[int] | None:
        """Return the positions of keys whose lines are not in the file yet; None means all."""
        if not self.before and not self.gone:
            return None
        given = keys.to_list()
        self.lost -= sum(key in self.gone for key in given)
        return [place for place, key in enumerate(given) if key not in self.before]

    def note(self, keys: Keys, data: bytes, place: int) -> int:
        """Note what is about to be added at `place`; return the size to `take_back` it. Raises OSError."""
        if self._descriptor < 0:
            self._open()
        if not self._keyed:
            return 0
        undo = os.lseek(self._descriptor, 0, os.SEEK_END)
        ranges = keys.ranges()
        note = [place, len(data), crc32(data), keys.to_list() if ranges is None else [], ranges or []]
        left = memoryview(orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE))
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            self.take_back(undo)
            raise
        return undo

    def is_replaced(self) -> bool:
        """Return whether another run has replaced the lines of this one since it began."""
        if self._descriptor < 0:
            return False
        return os.pread(self._descriptor, len(REPLACED), 0) == REPLACED

    def take_back(self, undo: int) -> None:
        """Remove the last note: its lines were not added."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, undo)

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the notes."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the notes of a complete run."""
        self.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


_Note = tuple[int, int, int, list[str], list[tuple[str, int, int]]]


def _parse(data: bytes) -> list[_Note]:
    notes: list[_Note] = []
    for line in data.splitlines():
        try:
            place, length, checksum, keys, ranges = orjson.loads(line)
        except ValueError:
            return []  # damaged: a duplicate line is better than a missing one
        notes.append((place, length, checksum, keys, ranges))
    return notes
