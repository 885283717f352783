"""Check quickly whether content may begin with a signature known to `puremagic`.

`puremagic` compares content with each of its 1,400 signatures, which takes longer than fetching a small
object. Here only those with a matching first byte are compared.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

__all__ = ["SURE_BYTES", "has_signature"]

SURE_BYTES = 3
"""Shorter signatures also occur by chance."""

_Places = list[tuple[int, dict[bytes, tuple[bytes, ...]]]]


def has_signature(head: bytes) -> bool:
    """Return whether `puremagic.magic_string` may find a signature of at least `SURE_BYTES`."""
    places = _places()
    if places is None:
        return True
    for start, by_first in places:
        candidates = by_first.get(head[start : start + 1])
        if candidates is not None and head.startswith(candidates, start):
            return True
    return False


@cache
def _places() -> _Places | None:
    """Return the signatures by offset and first byte; None if puremagic stores them differently."""
    try:
        from puremagic.main import magic_footer_array, magic_header_array, multi_part_dict
    except ImportError:
        return None
    found: defaultdict[int, defaultdict[bytes, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for row in (*magic_header_array, *magic_footer_array):
        signature: bytes = row.byte_match
        # a short one may begin a longer one in several parts
        if len(signature) >= SURE_BYTES or signature in multi_part_dict:
            found[row.offset][signature[:1]].add(signature)
    return [
        (start, {first: tuple(known) for first, known in by_first.items()})
        for start, by_first in found.items()
    ]
