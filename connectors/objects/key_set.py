"""Sets of record keys that take little memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["KeySet"]


class KeySet:
    """A set of text keys, which stores consecutive numbers after the same prefix as ranges."""

    def __init__(self) -> None:
        self._single: set[str] = set()
        self._ranges: dict[str, list[tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._single or self._ranges)

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
        if key in self._single:
            return True
        prefix = key.rstrip("0123456789")
        number, ranges = key[len(prefix) :], self._ranges.get(prefix)
        if not ranges or not 0 < len(number) < 19 or number != str(int(number)):
            return False
        place = bisect_right(ranges, (int(number), float("inf"))) - 1
        return place >= 0 and ranges[place][0] <= int(number) < ranges[place][1]
