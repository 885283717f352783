"""Files that a sink writes: their names, and notes about their records.

A file is named after the run and its first record, so that a batch that is written again replaces its file.
Before it is written, its keys are noted: a resumed run reads the notes, and skips records of files that match
their notes, even if batches differ. The notes are removed when the run completes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import anyio.to_thread
import orjson

from connectors.objects.key_set import KeySet, pack_keys
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.lease import Lease
from engine.errors import FatalError

STANDALONE = Context().run_id
NOTE = ".json"
REPLACED = "replaced"
MAX_RANGES = 64
"""More ranges take more space than packed keys."""
_OURS = re.compile(r"part-([0-9a-f]{12})-\d{12,}-[0-9a-f]{8}\.\w+(?:\.\w+)?")
"""The names of files of this sink. Other programs also write files that begin with `part-`."""


class PartStore(Protocol):
    """A folder, or the part of a bucket below a prefix. Each call raises `TransientError` or `FatalError`.

    A file is named by its path: `part-….csv`, or `country=DE/part-….csv` in the folder of a partition.
    """

    async def sizes(self) -> Mapping[str, int]:
        """Return the files and their sizes, also of those in folders of partitions, but no other ones."""

    async def notes(self, token: str) -> Mapping[str, bytes]:
        """Return the notes of a run, by file name."""

    async def has_note(self, token: str, name: str) -> bool:
        """Return whether a run has a note about this file."""

    async def put_note(self, token: str, name: str, data: bytes) -> None:
        """Store a note durably."""

    async def put(self, token: str, name: str, data: bytes) -> None:
        """Store a file durably and atomically, replacing one of the same name."""

    async def delete(self, name: str) -> None:
        """Remove a file, if it exists."""

    async def delete_notes(self, token: str) -> None:
        """Remove the notes of a run, and its incomplete files."""


def file_name(token: str, first: int, digest: str, suffix: str) -> str:
    """Return the name of the file of a run whose first record has this ordinal."""
    return f"part-{token}-{first:012}-{digest}{suffix}"


def is_part(path: str) -> bool:
    """Return whether a file was written by a sink of this kind."""
    return _OURS.fullmatch(_base(path)) is not None


def run_token(ctx: Context) -> str:
    """Return the part of file names for a run, node and chunk; without a run, a new one each time."""
    if ctx.run_id == STANDALONE:
        return secrets.token_hex(6)
    return sha256(f"{ctx.run_id}\n{ctx.node}\n{ctx.chunk}".encode()).hexdigest()[:12]


@dataclass(slots=True)
class PartNote:
    """A note about a file: its size, its number of records and their keys, and its folder.

    The keys are ranges, or packed; earlier versions listed them.
    """

    size: int
    records: int
    keys: list[str] = field(default_factory=list)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    folder: str = ""
    numbers: dict[str, str] = field(default_factory=dict)
    hashes: str = ""

    @classmethod
    def of(cls, batch: Batch, size: int, folder: str) -> PartNote:
        """Create the note about a file of these records."""
        ranges = batch.keys.ranges()
        if ranges is not None and len(ranges) <= MAX_RANGES:
            return cls(size, len(batch), [], ranges, folder)
        numbers, hashes = pack_keys(batch.keys.to_list())
        return cls(size, len(batch), [], [], folder, numbers, hashes)

    @classmethod
    def parse(cls, data: bytes) -> PartNote:
        """Parse a stored note. Raises ValueError if it is invalid."""
        stored: dict[str, Any] = orjson.loads(data)
        ranges = [(prefix, start, stop) for prefix, start, stop in stored["ranges"]]
        packed = stored.get("numbers", {}), stored.get("hashes", "")
        return cls(
            stored["size"], stored["records"], stored["keys"], ranges, stored.get("folder", ""), *packed
        )

    def add_to(self, known: KeySet) -> None:
        """Add the keys of the records."""
        known.add(self.keys, self.ranges)
        known.add_packed(self.numbers, self.hashes)

    def dump(self) -> bytes:
        """Return the note as stored."""
        return orjson.dumps(self)


class PartFiles:
    """The files of one run in a store.

    Args:
        suffix: suffix of the file names.
        lease: confirmed before a file is written or deleted, since listings and uploads may take long.

    Attributes:
        before: keys that earlier attempts of the run have written.
        begun: this attempt or an earlier one has written a file.
    """

    def __init__(self, store: PartStore, token: str, suffix: str, lease: Lease) -> None:
        self._store = store
        self._token = token
        self._suffix = suffix
        self._lease = lease
        self._written: dict[str, tuple[int, int]] = {}  # sizes and numbers of records
        self.before = KeySet()
        self.begun = False

    async def open(self) -> Mapping[str, int]:
        """Read the notes of earlier attempts; return existing files of other runs, with their sizes.

        A file that does not match its note is removed: it is older, and its records will be written again.

        Raises:
            FatalError: another run has replaced the files of earlier attempts.
        """
        sizes = dict(await self._store.sizes())
        stored = dict(await self._store.notes(self._token))
        if stored.pop(REPLACED, None) is not None:
            raise FatalError(
                "another run has replaced the files of this one since it was interrupted: start a new run"
            )
        self.begun = bool(stored)
        for name, data in stored.items():
            try:
                note = PartNote.parse(data)
            except (ValueError, KeyError, TypeError):
                continue  # an incomplete note: its file was not written
            path = note.folder + name
            if sizes.get(path) != note.size:
                if path in sizes:
                    await self._lease.confirm()
                    await self._store.delete(path)
                continue
            self._written[path] = note.size, note.records
            await anyio.to_thread.run_sync(note.add_to, self.before)
        await anyio.to_thread.run_sync(self.before.close)
        return {path: size for path, size in sizes.items() if not _base(path).startswith(self._prefix)}

    def unwritten(self, batch: Batch) -> list[int]:
        """Return the positions of records that earlier attempts have not written."""
        return [place for place, key in enumerate(batch.keys.to_list()) if key not in self.before]

    @property
    def _prefix(self) -> str:
        return f"part-{self._token}-"

    def name_of(self, batch: Batch, folder: str) -> str:
        """Return the name of the file for this batch, which is unique in all folders."""
        split = batch.origins[0][0].tracker.key if batch.origins else ""
        first = batch.keys.slice(0, 1)
        digest = sha256(f"{folder}{split}\n{first.to_list()[0]}".encode()).hexdigest()[:8]
        return file_name(self._token, first.ordinals()[0], digest, self._suffix)

    async def write(self, batch: Batch, data: bytes, folder: str) -> None:
        """Write a batch as a file in a folder: "", or of a partition, with a slash at its end."""
        name = self.name_of(batch, folder)
        # packing takes seconds for a million keys
        note = await anyio.to_thread.run_sync(PartNote.of, batch, len(data), folder)
        await self._lease.confirm()
        await self._store.put_note(self._token, name, note.dump())
        await self._lease.confirm()
        await self._store.put(self._token, folder + name, data)
        self._written[folder + name] = note.size, note.records
        self.begun = True

    async def count(self) -> int:
        """Count the records in files of the run that match their notes."""
        sizes = await self._store.sizes()
        return sum(records for path, (size, records) in self._written.items() if sizes.get(path) == size)

    async def close_run(self, *, replace: bool) -> None:
        """Complete the run: remove its notes, and with `replace` the files of earlier runs.

        Raises:
            FatalError: another run has replaced this run's files.
        """
        if self.begun and await self._store.has_note(self._token, REPLACED):
            raise FatalError(
                "another run has replaced the files of this one while it wrote: start a new run, and let "
                "only one write here at a time"
            )
        if replace:
            written = {path: _OURS.fullmatch(_base(path)) for path in await self._store.sizes()}
            others = {path: match[1] for path, match in written.items() if match and match[1] != self._token}
            await self._lease.confirm()  # or later runs may have written some of them
            for token in set(others.values()):
                if await self._store.notes(token):  # that run is incomplete and must not continue
                    await self._store.put_note(token, REPLACED, b"{}")
            for path in others:
                await self._store.delete(path)
        await self._store.delete_notes(self._token)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
