"""Record keys, kept lazily beside the records of a batch.

A key is text that names one record for ever. Making the text for every record would cost more than moving
the record, so a batch holds one of these small descriptions instead; the text is made by `to_list()`,
which only sinks and dead letters call. Every class here is immutable.
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
        """The keys as text."""
        raise NotImplementedError

    def ordinals(self) -> Sequence[int]:
        """The source ordinal of each record."""
        raise NotImplementedError

    def ranges(self) -> list[tuple[str, int, int]] | None:
        """The keys as (prefix, first number, number behind the last), in order; None if they are not that."""
        return None

    def slice(self, start: int, stop: int) -> Keys:
        """The keys of records `start` to `stop` (exclusive)."""
        return _Claimed(self, range(start, stop))

    def take(self, indices: Sequence[int]) -> Keys:
        """The keys at these indices, in this order."""
        return _Claimed(self, indices)

    def select(self, mask: Sequence[object], count: int) -> Keys:
        """The keys where `mask` is true; `count` is how many that are."""
        return _Masked(self, mask, count)

    def with_suffix(self, suffix: str) -> Keys:
        """Each key with `suffix` behind it: tells the branches of a fan-out apart where they meet again."""
        return _Suffixed(self, suffix)

    def fan_out(self, counts: Sequence[int]) -> Keys:
        """The keys of a record-to-list transform: record i became `counts[i]` records, `key/0`, `key/1`, …"""
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

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return [(self.prefix, self.start, self.stop)]

    def slice(self, start: int, stop: int) -> Keys:
        return KeyRange(self.prefix, self.start + start, self.start + stop)


class KeyList(Keys):
    """Keys that a source made one by one; the first record has the source ordinal `first_ordinal`."""

    __slots__ = ("first_ordinal", "keys")

    def __init__(self, keys: Sequence[str], first_ordinal: int = 0) -> None:
        self.keys = keys
        self.first_ordinal = first_ordinal

    def __len__(self) -> int:
        return len(self.keys)

    def to_list(self) -> list[str]:
        return list(self.keys)

    def ordinals(self) -> Sequence[int]:
        return range(self.first_ordinal, self.first_ordinal + len(self.keys))

    def slice(self, start: int, stop: int) -> Keys:
        return KeyList(self.keys[start:stop], self.first_ordinal + start)


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
    """The keys of several batches, one behind the other."""
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _chosen(base: Keys, indices: Sequence[int]) -> list[tuple[str, int, int]] | None:
    """The ranges of some keys of a range."""
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
