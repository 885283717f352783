"""A set of seen keys, in sixteen bytes each."""

from __future__ import annotations

from array import array
from hashlib import blake2b

__all__ = ["SeenKeys", "digest"]


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
