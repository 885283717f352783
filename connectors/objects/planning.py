"""Group objects into batches and estimate their memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from connectors.objects.listed import ListedObject
from connectors.objects.media_types import by_suffix, is_text

__all__ = ["RECORD_OVERHEAD", "PlannedGroup", "plan_groups", "weight"]

GROUP_OBJECTS = 16
GROUP_BYTES = 256 * 1024
"""Limits of a group: objects and bytes of weight; a larger object forms its own group."""

RECORD_OVERHEAD = 1024
"""Memory of a record in addition to its content, in bytes."""


class PlannedGroup(NamedTuple):
    """Consecutive objects of a split from index `start`, with their total memory `nbytes`."""

    start: int
    objects: Sequence[ListedObject]
    nbytes: int


def plan_groups(objects: Sequence[ListedObject], start: int, max_object_bytes: int) -> Iterator[PlannedGroup]:
    """Yield the objects from index `start` on in groups, based on the listing alone."""
    while start < len(objects):
        stop, total = start, 0
        while stop < len(objects) and stop - start < GROUP_OBJECTS:
            nbytes = weight(objects[stop], max_object_bytes)
            if stop > start and total + nbytes > GROUP_BYTES:
                break
            total += nbytes
            stop += 1
        yield PlannedGroup(start, objects[start:stop], total)
        start = stop


def weight(found: ListedObject, max_object_bytes: int) -> int:
    """Return the peak memory of an object in bytes: raw and decoded content together."""
    if found.size > max_object_bytes:
        return RECORD_OVERHEAD  # it will not be read
    size = found.size if found.size >= 0 else max_object_bytes  # unknown
    # a str takes two bytes per character once one is beyond Latin-1; base64 takes four bytes for three
    factor = 3.0 if is_text(by_suffix(found.key)) else 2.4
    return int(size * factor) + RECORD_OVERHEAD
