"""The format `json`: each JSON object of a file, in an array or one after the other, over any lines."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Final

from connectors.objects.content import Content, ReadBytes
from connectors.objects.line_formats import JsonLines, too_long
from connectors.objects.lines import LinePage, Place
from connectors.objects.pages import RecordPlace
from engine.errors import RecordError

__all__ = ["JsonValues"]

# between values stand blanks, commas, brackets of arrays, record separators (RFC 7464) and byte order marks
_BEGIN: Final = re.compile(rb"[^\s,\[\]\x1e\xef\xbb\xbf]")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+("?)|[{}]', re.DOTALL)
_OTHER: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[^\n,{"\[\]]+', re.DOTALL)
"""A value other than an object extends to the next comma, bracket or line end."""


class JsonValues(JsonLines):
    """Each JSON object is a record, counted from 1. Enclosing arrays are skipped."""

    def lines(self, content: Content, start: RecordPlace, path: str) -> AsyncGenerator[LinePage, None]:
        """Read the objects as lines without line ends."""
        return _value_pages(content.read, start, self.max_record_bytes, self.page_records, path)


async def _value_pages(
    read: ReadBytes, start: RecordPlace, max_value: int, page_values: int, path: str
) -> AsyncGenerator[LinePage, None]:
    place, depth = Place(start.at, start.before), start.depth
    pieces: list[bytes] = []
    have = looked_at = 0
    ended = False
    while not ended:
        piece = await read()
        ended = not piece
        pieces.append(piece)
        have += len(piece)
        # what waits is neither joined nor looked at again with each small addition
        if have < 2 * looked_at and not ended:
            continue
        data = b"".join(pieces)
        found, taken, depth = _cut(data, depth)
        if ended and taken < len(data):
            found.append((taken, len(data), 0))  # it fails by itself, and may contain the end of the arrays
            taken, depth = len(data), 0
        for first in range(0, len(found), page_values):
            some = found[first : first + page_values]
            end = Place(place.offset + some[-1][1], place.line + first + len(some))
            # like any line end, it is an error inside of a text, and a blank anywhere else
            values = [data[begin:end].replace(b"\n", b"\r") for begin, end, _ in some]
            lines = [value if len(value) <= max_value else None for value in values]
            yield LinePage(Place(end.offset, end.line - len(some)), lines, end, some[-1][2])
        place = Place(place.offset + taken, place.line + len(found))
        pieces = [data[taken:]]
        have = looked_at = len(pieces[0])
        if have > max_value:
            raise too_long(f"{path}:{place.line + 1}", max_value)
    if depth > 0:
        raise RecordError(f"{path}: an array is never closed: the file is not whole", kind="ObjectDamaged")


def _cut(data: bytes, depth: int) -> tuple[list[tuple[int, int, int]], int, int]:
    """Return whole values as (begin, end, enclosing arrays), where the rest begins, and the arrays around it.

    Args:
        depth: arrays that enclose the beginning.
    """
    found: list[tuple[int, int, int]] = []
    at = 0
    while (begins := _BEGIN.search(data, at)) is not None:
        begin = begins.start()
        depth += _opened(data, at, begin)
        end = _object_end(data, begin) if data[begin] == ord("{") else _other_end(data, begin)
        if end is None:
            return found, begin, depth
        at = end
        found.append((begin, at, depth))
    return found, len(data), depth + _opened(data, at, len(data))


def _opened(data: bytes, begin: int, end: int) -> int:
    return data.count(b"[", begin, end) - data.count(b"]", begin, end)


def _object_end(data: bytes, begin: int) -> int | None:
    depth = 0
    for token in _TOKEN.finditer(data, begin):
        kind = token[0][0]
        if kind == ord('"'):
            if not token[1]:
                return None
            continue
        depth += 1 if kind == ord("{") else -1
        if not depth:
            return token.end()
    return None


def _other_end(data: bytes, begin: int) -> int | None:
    found = _OTHER.match(data, begin)
    assert found is not None
    return found.end() if found.end() < len(data) else None
