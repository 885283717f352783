"""Track which records of a run a table already has, in a ledger next to it.

Rows do not identify their records. So each transaction that adds rows also adds an entry with the records'
keys: consecutive ones as ranges, others as hashes of eight bytes. A record that is repeated, because a run
was resumed or a connection broke during the commit, is found there and skipped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import orjson

from connectors.objects.key_set import KeySet
from engine.contract.batch import Batch

KEEP_DAYS: Final = 30
"""Days to keep entries of incomplete runs, which can be resumed for as long."""

_SPLITS_HELD: Final = 64

LedgerRow = tuple[str, Sequence[int]]
"""An entry's ranges as JSON, and its hashes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The records of one split in one transaction."""

    split: str
    ranges: str
    hashes: list[int]
    records: int


class KnownKeys:
    """The keys in the entries of a split."""

    def __init__(self, rows: Iterable[LedgerRow]) -> None:
        self._hashes: set[int] = set()
        self._keys = KeySet()
        for ranges, hashes in rows:
            self._hashes.update(hashes)
            self._keys.add((), orjson.loads(ranges))
        self._keys.close()

    def __bool__(self) -> bool:
        return bool(self._hashes or self._keys)

    def has(self, identity: str) -> bool:
        """Return whether the record with this identity was delivered."""
        return identity in self._keys or (bool(self._hashes) and _hash(identity) in self._hashes)


class Reader:
    """Determines which records of a batch to write, reading the ledger once per split.

    Args:
        ask: reads the entries of a split of the run.
        distinct: keys are unique; otherwise positions in the source also identify records.
    """

    def __init__(self, ask: Callable[[str], Awaitable[list[LedgerRow]]], *, distinct: bool) -> None:
        self._ask = ask
        self._distinct = distinct
        self._known: OrderedDict[str, KnownKeys] = OrderedDict()
        self._unsure: set[str] = set()

    def doubt(self, batch: Batch) -> None:
        """Note that these records may have been written: read the ledger before writing them again."""
        for split, _, _ in parts_of(batch):
            self._known.pop(split, None)
            self._unsure.add(split)

    async def missing(self, batch: Batch) -> list[int]:
        """Return the indices of the records that are not in the table yet."""
        indices: list[int] = []
        identities: list[str] | None = None
        for split, start, stop in parts_of(batch):
            known = await self._of(split) if batch.replay or split in self._unsure else None
            if not known:
                indices += range(start, stop)
                continue
            if identities is None:
                identities = identities_of(batch, distinct=self._distinct)
            indices += [index for index in range(start, stop) if not known.has(identities[index])]
        return indices

    async def _of(self, split: str) -> KnownKeys:
        known = self._known.get(split)
        if known is None:
            known = self._known[split] = KnownKeys(await self._ask(split))
            while len(self._known) > _SPLITS_HELD:
                self._known.popitem(last=False)
        return known


def entries_of(batch: Batch, *, distinct: bool) -> list[Entry]:
    """Return the entries for a transaction that writes all records of a batch."""
    entries: list[Entry] = []
    for split, start, stop in parts_of(batch):
        part = batch if stop - start == len(batch) else batch.slice(start, stop)
        ranges = part.keys.ranges() if distinct else None
        # such a key does not show where the number begins
        if ranges is None or any(prefix[-1:].isdigit() for prefix, _, _ in ranges):
            hashes = [_hash(identity) for identity in identities_of(part, distinct=distinct)]
            entries.append(Entry(split, "[]", hashes, stop - start))
        else:
            entries.append(Entry(split, orjson.dumps(ranges).decode(), [], stop - start))
    return entries


def parts_of(batch: Batch) -> list[tuple[str, int, int]]:
    """Yield the splits of the records: key, first index, index after the last."""
    parts: list[tuple[str, int, int]] = []
    start = 0
    if not batch.origins:
        return [("", 0, len(batch))]
    for ack, count in batch.origins:
        split = ack.tracker.key
        if parts and parts[-1][0] == split:
            parts[-1] = (split, parts[-1][1], start + count)
        elif count:
            parts.append((split, start, start + count))
        start += count
    return parts


def identities_of(batch: Batch, *, distinct: bool) -> list[str]:
    """Return what identifies each record within its split."""
    keys = batch.keys.to_list()
    if distinct:
        return keys
    return [f"{ordinal}\0{key}" for ordinal, key in zip(batch.keys.ordinals(), keys, strict=True)]


def _hash(identity: str) -> int:
    digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
