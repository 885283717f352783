"""Detect fields that a transform reads but no record has: they are probably misspelt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.contract.component import Context


class ExpectedFields:
    """Counts the records searched for each field that has not been seen.

    A field that was seen once costs nothing more.
    """

    __slots__ = ("_unseen",)

    def __init__(self, paths: Iterable[Sequence[str]]) -> None:
        self._unseen = list(dict.fromkeys(tuple(path) for path in paths))

    def look(self, records: Sequence[Mapping[str, Any]], ctx: Context) -> None:
        """Look for the fields in the records of a batch."""
        if not self._unseen or not records:
            return
        for path in list(self._unseen):
            counter = f"absent: {'.'.join(path)}"  # the summary reports it if it counts every record
            plain = len(path) == 1  # by far the most common case, and far cheaper
            if any(path[0] in one for one in records) if plain else any(_has(one, path) for one in records):
                self._unseen.remove(path)
                ctx.aggregate.pop(counter, None)
            else:
                ctx.count(counter, len(records))


def _has(value: Any, path: Sequence[str]) -> bool:
    if not path:
        return True
    if isinstance(value, list | tuple):
        return any(_has(item, path) for item in value)
    if not isinstance(value, Mapping):
        return False
    if len(path) == 1:
        return path[0] in value
    # a name may contain points
    for end in range(1, len(path) + 1):
        name = ".".join(path[:end])
        if name in value and _has(value[name], path[end:]):
            return True
    return False
