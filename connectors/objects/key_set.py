"""Sets of record keys that take little memory, and lists of them that take little space."""

from __future__ import annotations

import zlib
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Final

_FEW_NUMBERS: Final = 8
"""A prefix with fewer numbers takes more space than a hash for each."""

_HASH_BYTES: Final = 9
"""A resumed run skips a record whose hash is that of a written one: with 10 million written and as many left,
one run in 47 million loses a record, and the count at its end does not match."""


class KeySet:
    """A set of text keys, which stores consecutive numbers after the same prefix as ranges."""

    def __init__(self) -> None:
        self._single: set[str] = set()
        self._hashes: set[bytes] = set()
        self._ranges: dict[str, list[tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._single or self._hashes or self._ranges)

    def add(self, keys: Sequence[str], ranges: Sequence[tuple[str, int, int]]) -> None:
        """Add single keys, and ranges: prefix, first and last (exclusive) number."""
        self._single.update(keys)
        for prefix, start, stop in ranges:
            if prefix[-1:].isdigit():  # such a key does not show where the number begins
                self._single.update(f"{prefix}{number}" for number in range(start, stop))
                continue
            known = self._ranges.setdefault(prefix, [])
            if known and known[-1][1] == start:
                known[-1] = (known[-1][0], stop)
            else:
                known.append((start, stop))

    def add_packed(self, packed: Mapping[str, str], hashes: str) -> None:
        """Add keys that `pack_keys` has packed."""
        data = b64decode(hashes)
        self._hashes.update(data[at : at + _HASH_BYTES] for at in range(0, len(data), _HASH_BYTES))
        for prefix, numbers in packed.items():
            self.add((), [(prefix, number, number + 1) for number in accumulate(_unpacked(numbers))])

    def close(self) -> None:
        """Sort the ranges for `in`; call it once, after the last `add`."""
        for prefix, ranges in self._ranges.items():
            ranges.sort()
            joined = ranges[:1]
            for start, stop in ranges[1:]:
                if start <= joined[-1][1]:
                    joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
                else:
                    joined.append((start, stop))
            self._ranges[prefix] = joined

    def __contains__(self, key: str) -> bool:
        if key in self._single or (self._hashes and _hash(key) in self._hashes):
            return True
        prefix, number = _numbered(key)
        ranges = self._ranges.get(prefix)
        if not ranges or number < 0:
            return False
        place = bisect_right(ranges, (number, float("inf"))) - 1
        return place >= 0 and ranges[place][0] <= number < ranges[place][1]


def pack_keys(keys: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return keys as numbers by prefix, compressed, and the others as hashes."""
    numbers: dict[str, list[int]] = defaultdict(list)
    hashes: list[bytes] = []
    for key in keys:
        prefix, number = _numbered(key)
        if number < 0:
            hashes.append(_hash(key))
        else:
            numbers[prefix].append(number)
    packed: dict[str, str] = {}
    for prefix, found in numbers.items():
        if len(found) < _FEW_NUMBERS:
            hashes += [_hash(f"{prefix}{number}") for number in found]
        else:
            packed[prefix] = _packed([after - before for before, after in pairwise([0, *sorted(found)])])
    return packed, b64encode(b"".join(hashes)).decode()


def _numbered(key: str) -> tuple[str, int]:
    """Split a key into a prefix and the number at its end, which is -1 if it has none."""
    prefix = key.rstrip("0123456789")
    digits = key[len(prefix) :]
    plain = 0 < len(digits) < 19 and (digits[0] != "0" or digits == "0")
    return prefix, int(digits) if plain else -1


def _hash(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()


def _packed(numbers: Sequence[int]) -> str:
    return b64encode(zlib.compress(array("Q", numbers).tobytes())).decode()


def _unpacked(text: str) -> array[int]:
    numbers = array("Q")
    numbers.frombytes(zlib.decompress(b64decode(text)))
    return numbers
