"""Notes next to a file on what a run has written to it, so that a resumed run does not write it again.

Lines do not identify their records. Before each write, its keys are noted in `.NAME.RUN.written`, with the
offset, length and checksum of the lines. Any number of consecutive keys takes one entry. If a key may occur
twice in a run, the notes only record that the run has begun to write. A complete run removes them.

While lines are added, `.NAME.writing` has the file's inode and the offsets of their start and end. If a kill
cuts the write short, whoever opens the file or adds the next lines removes the incomplete ones.

A writer holds the lock of the file while it adds lines, so several can append, and none cuts off another's.

Each attempt puts a new file in the place of the notes, so that a process that was taken for dead finds out
before its next write.
"""

from __future__ import annotations

import errno
import glob
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import orjson

from connectors.objects.key_set import KeySet
from engine.contract.component import Context
from engine.contract.keys import Keys
from engine.errors import LeaseLostError

try:
    import fcntl
except ImportError:  # Windows: only one process may append
    fcntl = None  # type: ignore[assignment]


WAIT = 30.0
"""Seconds to wait for a writer that holds the lock, which takes about a millisecond per batch."""

_POLL_EVERY = 0.001
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file for the block; see flock(2). A killed process releases it.

    On file systems without locks, the block runs without one.

    Raises:
        TimeoutError: another writer has held the lock for `WAIT` seconds.
    """
    held = fcntl is not None and _lock(descriptor)
    try:
        yield
    finally:
        if held:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int) -> bool:
    deadline = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            deadline = deadline or time.monotonic() + WAIT
            if time.monotonic() > deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"another process has held the lock for {WAIT:g} s"
                ) from None
            time.sleep(_POLL_EVERY)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        else:
            return True


STANDALONE = Context().run_id
MAX_NAME = 255 - len("..0123456789abcdef.written")
"""Maximum bytes of a file's name in the name of its notes."""

BEGUN = b"begun\n"
"""The only note of a run whose keys may occur twice."""

REPLACED = b"replaced\n"
"""Replaces the notes if another run has replaced their file."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


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


def mark_replaced(path: str, own: Path | None) -> None:
    """Tell interrupted runs that the one with the notes `own` replaces their lines. Raises OSError."""
    file = Path(path)
    for notes in file.parent.glob(f".{glob.escape(_short(file.name))}.{'[0-9a-f]' * 16}.written"):
        if notes != own:
            notes.write_bytes(REPLACED)


@contextmanager
def whole_write(path: str, descriptor: int, start: int, end: int) -> Iterator[None]:
    """Have lines added from offset `start` to `end` whole or not at all, even if this process is killed.

    The file must be locked.

    Raises:
        OSError: the mark cannot be written.
    """
    mark = _mark(path)
    try:
        _put(mark, b"%d %d %d\n" % (os.fstat(descriptor).st_ino, start, end))
        yield
    except OSError:
        undo_cut_write(path, descriptor)
        raise
    _remove(mark)


def undo_cut_write(path: str, descriptor: int) -> None:
    """Remove the lines of a batch whose writer was killed or failed. The file must be locked.

    Nothing is cut from another file of this name, nor from one that is larger than the batch would have made
    it: another program has added to it.

    Raises:
        OSError: the file cannot be read or written.
    """
    mark = _mark(path)
    try:
        with open(mark, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return
    if data.endswith(b"\n"):  # else it was killed before it added anything
        inode, start, end = map(int, data.split())
        found = os.fstat(descriptor)
        if found.st_ino == inode and start < found.st_size <= end:
            os.ftruncate(descriptor, start)
    _remove(mark)


@lru_cache(maxsize=64)
def _mark(path: str) -> str:
    file = Path(path)
    return str(file.with_name(f".{_short(file.name)}.writing"))


# a file object, or pathlib, would cost more than the calls to the system


def _put(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


class WrittenLog:
    """The notes of one run about one file.

    Args:
        path: path of the notes.
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
        self.path = path
        self._target = descriptor
        self._keyed = keyed
        self._descriptor = -1
        self.before, self.gone = KeySet(), KeySet()
        self.lost = 0
        self.exists = False
        self.replaced = False

    def open(self) -> None:
        """Read the notes of earlier attempts, and take them over. The file must be locked.

        Raises:
            OSError: the notes or the file cannot be read or written.
        """
        data = b""
        with suppress(FileNotFoundError):
            data = self.path.read_bytes()
        self.exists = bool(data)
        self.replaced = data.startswith(REPLACED)
        if not self.replaced:
            self._own(self._read(data) if self._keyed else data)

    def _read(self, data: bytes) -> bytes:
        """Sort the keys of earlier attempts into `before` and `gone`; return the notes that stay true."""
        notes = _parse(data[: data.rfind(b"\n") + 1])
        kept = self._arrived(notes)
        for _, _, _, keys, ranges in kept:
            self.before.add(keys, ranges)
        self.before.close()
        for _, _, _, keys, ranges in notes[len(kept) :]:
            self.gone.add(keys, ranges)
            self.lost += len(keys) + sum(stop - start for _, start, stop in ranges)
        self.gone.close()
        return data[: sum(len(orjson.dumps(one)) + 1 for one in kept)]

    def _own(self, data: bytes) -> None:
        """Replace the notes: other attempts of the run may still have the old file open."""
        new = self.path.with_name(f".{self.path.name[-len('0123456789abcdef.written') :]}.new")
        self._descriptor = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        write_all(self._descriptor, data)
        os.replace(new, self.path)

    def _arrived(self, notes: list[_Note]) -> list[_Note]:
        """Return the notes whose lines are in the file: a kill may have cut off the last ones."""
        if notes and not self._is_there(notes[-1]):
            notes = notes[:-1]
            if notes and not self._is_there(notes[-1]):
                return []  # the file was removed, truncated or replaced: these lines are gone
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

    def check_own(self) -> None:
        """Raise LeaseLostError if another attempt of the run has opened the notes since."""
        if not self._is_own():
            raise LeaseLostError(f"another attempt of the run has opened {self.path.name}, or it was removed")

    def note(self, keys: Keys, data: bytes, place: int) -> int:
        """Note what is about to be added at `place`; return the size to `take_back` it.

        Raises:
            OSError: the notes cannot be written.
        """
        undo = os.lseek(self._descriptor, 0, os.SEEK_END)
        if not self._keyed:
            if not undo:
                write_all(self._descriptor, BEGUN)
            return undo
        ranges = keys.ranges()
        note = [place, len(data), crc32(data), keys.to_list() if ranges is None else [], ranges or []]
        try:
            write_all(self._descriptor, orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE))
        except OSError:
            self.take_back(undo)
            raise
        return undo

    def is_replaced(self) -> bool:
        """Return whether another run has replaced the lines of this one since it began."""
        return os.pread(self._descriptor, len(REPLACED), 0) == REPLACED

    def _is_own(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except OSError:
            return False

    def take_back(self, undo: int) -> None:
        """Remove the last note: its lines were not added."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, undo)

    def close(self) -> None:
        """Close the notes, and remove them if nothing was noted."""
        if self._descriptor < 0:
            return
        if self._is_own() and not os.fstat(self._descriptor).st_size:
            self.remove()
            return
        os.close(self._descriptor)
        self._descriptor = -1

    def remove(self) -> None:
        """Remove the notes of a complete run."""
        if self._is_own():
            with suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


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
