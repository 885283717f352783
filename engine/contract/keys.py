"""Lazy keys of the records of a batch.

A key is text that always names the same record. Creating the text for every record would cost more than
moving the record, so a batch holds one of these small descriptions instead; `to_list()`, which only sinks and
dead letters call, creates the text. Every class here is immutable.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, compress

__all__ = ["KeyList", "KeyRange", "Keys", "join_keys"]


class Keys:
    """The keys of a batch, in record order.

    `ordinals()` gives each record's place in its source, counted from 0; it survives filters and packing,
    and children of a fan-out share their parent's.
    """

    __slots__ = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def to_list(self) -> list[str]:
        """Return the keys as text."""
        raise NotImplementedError

    def ordinals(self) -> Sequence[int]:
        """Return the source ordinal of each record."""
        raise NotImplementedError

    def ranges(self) -> list[tuple[str, int, int]] | None:
        """Return the keys as ordered (prefix, first number, number after the last); None if impossible."""
        return None

    def place(self, index: int) -> str:
        """Describe the place of a record for messages, without its key, which may contain values."""
        return f"record {self.ordinals()[index]} or later of its source, counted from 0"

    def slice(self, start: int, stop: int) -> Keys:
        """Return the keys of records `start` to `stop` (exclusive)."""
        return _Claimed(self, range(start, stop))

    def take(self, indices: Sequence[int]) -> Keys:
        """Return the keys at these indices, in this order."""
        return _Claimed(self, indices)

    def select(self, mask: Sequence[object], count: int) -> Keys:
        """Return the keys where `mask` is true; `count` is their number."""
        return _Masked(self, mask, count)

    def with_suffix(self, suffix: str) -> Keys:
        """Append `suffix` to each key, to distinguish the branches of a fan-out when they merge."""
        return _Suffixed(self, suffix)

    def fan_out(self, counts: Sequence[int]) -> Keys:
        """Return the keys of a fan-out: record i became `counts[i]` records `key/0`, `key/1`, …"""
        return _Fanned(self, counts)


class KeyRange(Keys):
    """`prefix` followed by each ordinal from `start` to `stop` (exclusive)."""

    __slots__ = ("prefix", "start", "stop")

    def __init__(self, prefix: str, start: int, stop: int) -> None:
        self.prefix = prefix
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def to_list(self) -> list[str]:
        prefix = self.prefix
        return [f"{prefix}{ordinal}" for ordinal in range(self.start, self.stop)]

    def ordinals(self) -> Sequence[int]:
        return range(self.start, self.stop)

    def place(self, index: int) -> str:
        return f"record {self.start + index} of its source, counted from 0"

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return [(self.prefix, self.start, self.stop)]

    def slice(self, start: int, stop: int) -> Keys:
        return KeyRange(self.prefix, self.start + start, self.start + stop)


class KeyList(Keys):
    """Keys created one by one; the first record has the source ordinal `first_ordinal`.

    `counted`: that ordinal is exact, not just a lower bound.
    """

    __slots__ = ("counted", "first_ordinal", "keys")

    def __init__(self, keys: Sequence[str], first_ordinal: int = 0, *, counted: bool = False) -> None:
        self.keys = keys
        self.first_ordinal = first_ordinal
        self.counted = counted

    def __len__(self) -> int:
        return len(self.keys)

    def to_list(self) -> list[str]:
        return list(self.keys)

    def ordinals(self) -> Sequence[int]:
        return range(self.first_ordinal, self.first_ordinal + len(self.keys))

    def slice(self, start: int, stop: int) -> Keys:
        return KeyList(self.keys[start:stop], self.first_ordinal + start, counted=self.counted)

    def place(self, index: int) -> str:
        if not self.counted:
            return super().place(index)
        return f"record {self.first_ordinal + index} of its source, counted from 0"


class _Claimed(Keys):
    __slots__ = ("base", "indices")

    def __init__(self, base: Keys, indices: Sequence[int]) -> None:
        self.base = base
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def to_list(self) -> list[str]:
        keys = self.base.to_list()
        return [keys[index] for index in self.indices]

    def ordinals(self) -> Sequence[int]:
        ordinals = self.base.ordinals()
        return [ordinals[index] for index in self.indices]

    def place(self, index: int) -> str:
        return self.base.place(self.indices[index])

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return _chosen(self.base, self.indices)

    def slice(self, start: int, stop: int) -> Keys:
        return _Claimed(self.base, self.indices[start:stop])

    def take(self, indices: Sequence[int]) -> Keys:
        return _Claimed(self.base, [self.indices[index] for index in indices])


class _Masked(Keys):
    __slots__ = ("base", "count", "mask")

    def __init__(self, base: Keys, mask: Sequence[object], count: int) -> None:
        self.base = base
        self.mask = mask
        self.count = count

    def __len__(self) -> int:
        return self.count

    def to_list(self) -> list[str]:
        return list(compress(self.base.to_list(), self.mask))

    def ordinals(self) -> Sequence[int]:
        return list(compress(self.base.ordinals(), self.mask))

    def place(self, index: int) -> str:
        return self.base.place(self._indices()[index])

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return _chosen(self.base, self._indices())

    def _indices(self) -> list[int]:
        return list(compress(range(len(self.base)), self.mask))

    def slice(self, start: int, stop: int) -> Keys:
        return _Claimed(self.base, self._indices()[start:stop])

    def take(self, indices: Sequence[int]) -> Keys:
        kept = self._indices()
        return _Claimed(self.base, [kept[index] for index in indices])


class _Suffixed(Keys):
    __slots__ = ("base", "suffix")

    def __init__(self, base: Keys, suffix: str) -> None:
        self.base = base
        self.suffix = suffix

    def __len__(self) -> int:
        return len(self.base)

    def to_list(self) -> list[str]:
        return [key + self.suffix for key in self.base.to_list()]

    def ordinals(self) -> Sequence[int]:
        return self.base.ordinals()

    def place(self, index: int) -> str:
        return self.base.place(index)


class _Fanned(Keys):
    __slots__ = ("base", "counts", "total")

    def __init__(self, base: Keys, counts: Sequence[int]) -> None:
        self.base = base
        self.counts = counts
        self.total = sum(counts)

    def __len__(self) -> int:
        return self.total

    def to_list(self) -> list[str]:
        pairs = zip(self.base.to_list(), self.counts, strict=True)
        return [f"{key}/{child}" for key, count in pairs for child in range(count)]

    def ordinals(self) -> Sequence[int]:
        pairs = zip(self.base.ordinals(), self.counts, strict=True)
        return [ordinal for ordinal, count in pairs for _ in range(count)]

    def place(self, index: int) -> str:
        parents = [parent for parent, count in enumerate(self.counts) for _ in range(count)]
        return self.base.place(parents[index])


class _Joined(Keys):
    __slots__ = ("parts", "total")

    def __init__(self, parts: Sequence[Keys]) -> None:
        self.parts = parts
        self.total = sum(map(len, parts))

    def __len__(self) -> int:
        return self.total

    def to_list(self) -> list[str]:
        return list(chain.from_iterable(part.to_list() for part in self.parts))

    def ordinals(self) -> Sequence[int]:
        return list(chain.from_iterable(part.ordinals() for part in self.parts))

    def place(self, index: int) -> str:
        for part in self.parts:
            if index < len(part):
                return part.place(index)
            index -= len(part)
        raise IndexError(index)

    def ranges(self) -> list[tuple[str, int, int]] | None:
        found: list[tuple[str, int, int]] = []
        for part in self.parts:
            ranges = part.ranges()
            if ranges is None:
                return None
            found += ranges
        return found

    def slice(self, start: int, stop: int) -> Keys:
        inside: list[Keys] = []
        ends = accumulate(map(len, self.parts))
        for part, end in zip(self.parts, ends, strict=True):
            begin = end - len(part)
            low, high = max(start, begin), min(stop, end)
            if low < high:
                whole = low == begin and high == end
                inside.append(part if whole else part.slice(low - begin, high - begin))
        return join_keys(inside)


def join_keys(parts: Sequence[Keys]) -> Keys:
    """Join the keys of several batches."""
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _chosen(base: Keys, indices: Sequence[int]) -> list[tuple[str, int, int]] | None:
    """Return the ranges of some keys of a range."""
    ranges = base.ranges()
    if ranges is None or len(ranges) != 1:
        return None
    prefix, first, _ = ranges[0]
    found: list[tuple[str, int, int]] = []
    for index in indices:
        number = first + index
        if found and found[-1][2] == number:
            found[-1] = (prefix, found[-1][1], number + 1)
        else:
            found.append((prefix, number, number + 1))
    return found
