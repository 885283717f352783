"""Seen keys of one run, and keys of delivered records across all runs of a pipeline.

A key is stored as a bookmark, in one transaction with the position of its record: only after the record is
delivered, and never for a dead letter. Until then it is held in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from engine.contract.acks import Ack
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context
from engine.errors import FatalError


def digest(text: str) -> int:
    """Return a text's hash of 64 bits, never 0."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1


class SeenKeys:
    """A table of hashes, each with the hash of the first record that had it.

    Open addressing in two arrays takes a sixth of the memory of a dict. The table doubles when two thirds are
    used.
    """

    def __init__(self) -> None:
        self._size = 1024
        self._keys = array("Q", bytes(8 * self._size))
        self._owners = array("Q", bytes(8 * self._size))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def owner(self, key: int) -> int:
        """Return the first record with the key, or 0."""
        keys, mask = self._keys, self._size - 1
        place = key & mask
        while (found := keys[place]) != 0:
            if found == key:
                return self._owners[place]
            place = (place + 1) & mask
        return 0

    def add(self, key: int, owner: int) -> None:
        """Add a key that is not in the table."""
        if self._used * 3 >= self._size * 2:
            self._grow()
        self._put(key, owner)
        self._used += 1

    def _put(self, key: int, owner: int) -> None:
        keys, mask = self._keys, self._size - 1
        place = key & mask
        while keys[place]:
            place = (place + 1) & mask
        keys[place], self._owners[place] = key, owner

    def _grow(self) -> None:
        keys, owners = self._keys, self._owners
        self._size *= 2
        self._keys = array("Q", bytes(8 * self._size))
        self._owners = array("Q", bytes(8 * self._size))
        for key, owner in zip(keys, owners, strict=True):
            if key:
                self._put(key, owner)


SCOPE: Final = "delivered"
HELD: Final = 20_000
"""Keys in memory that trigger the removal of those stored by now."""


class Candidate(NamedTuple):
    """A record to compare: its identity in the run, its own key, and its key for comparison."""

    identity: int
    record_key: str
    ack: Ack | None


class RememberedKeys:
    """The keys of delivered records, and of those not delivered yet.

    Args:
        max_held: maximum keys not delivered yet; more fail the run.
    """

    def __init__(self, ctx: Context, max_held: int) -> None:
        self._ctx = ctx
        self._max_held = max_held
        self._held: dict[str, Candidate] = {}
        self._look_at = HELD

    async def first_of(self, found: Sequence[tuple[str, Candidate]]) -> list[bool]:
        """Return for each candidate whether it is the first record with its key.

        Raises:
            FatalError: too many keys are not delivered yet.
            StateError: the stored keys cannot be read.
        """
        keys = {key: _digest(key) for key, _ in found}
        asked = [digest for digest in dict.fromkeys(keys.values()) if digest not in self._held]
        stored = await self._ctx.bookmarks.get(SCOPE, asked) if asked else {}
        first = [self._is_first(keys[key], candidate, stored.keys()) for key, candidate in found]
        if len(self._held) > self._look_at:
            await self._let_go()
        return first

    def _is_first(self, key: str, candidate: Candidate, stored: object) -> bool:
        holder = self._held.get(key)
        if holder is not None and not (holder.ack is not None and holder.ack.lost(holder.record_key)):
            # a batch may be processed twice: the key belongs to the same record then
            return holder.identity == candidate.identity
        if key in stored:  # type: ignore[operator]
            return False
        self._held[key] = candidate
        if candidate.ack is not None:
            candidate.ack.remember(candidate.record_key, Bookmark(SCOPE, key, 1, self._ctx.node))
        return True

    async def _let_go(self) -> None:
        settled = [
            key for key, holder in self._held.items() if holder.ack is not None and holder.ack.complete
        ]
        stored = await self._ctx.bookmarks.get(SCOPE, settled)
        self._held = {
            key: holder
            for key, holder in self._held.items()
            if key not in stored and not (holder.ack is not None and holder.ack.lost(holder.record_key))
        }
        if len(self._held) > self._max_held:
            message = f"more than {self._max_held:,} distinct keys are not delivered yet"
            raise FatalError(f"{message}: raise `max_keys`, or lower `memory`")
        self._look_at = max(HELD, 2 * len(self._held))


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
