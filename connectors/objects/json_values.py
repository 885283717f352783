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
        place = Place(start.at, start.before)
        return _value_pages(content.read, place, self.max_record_bytes, self.page_records, path)


async def _value_pages(
    read: ReadBytes, place: Place, max_value: int, page_values: int, path: str
) -> AsyncGenerator[LinePage, None]:
    pieces: list[bytes] = []
    have = looked_at = 0
    open_arrays = 0
    counts_arrays = place.offset == 0  # otherwise it is not known how many enclose the place
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
        ends, taken, opened = _cut(data)
        open_arrays += opened
        if ended and taken < len(data):
            ends.append((taken, len(data)))  # it fails by itself, and may contain the end of the arrays
            taken, counts_arrays = len(data), False
        for first in range(0, len(ends), page_values):
            some = ends[first : first + page_values]
            end = Place(place.offset + some[-1][1], place.line + first + len(some))
            # like any line end, it is an error inside of a text, and a blank anywhere else
            values = [data[begin:end].replace(b"\n", b"\r") for begin, end in some]
            lines = [value if len(value) <= max_value else None for value in values]
            yield LinePage(Place(end.offset, end.line - len(some)), lines, end)
        place = Place(place.offset + taken, place.line + len(ends))
        pieces = [data[taken:]]
        have = looked_at = len(pieces[0])
        if have > max_value:
            raise too_long(f"{path}:{place.line + 1}", max_value)
    if counts_arrays and open_arrays > 0:
        raise RecordError(f"{path}: an array is never closed: the file is not whole", kind="ObjectDamaged")


def _cut(data: bytes) -> tuple[list[tuple[int, int]], int, int]:
    """Return where whole values begin and end, where the rest begins, and how many arrays remain open."""
    found: list[tuple[int, int]] = []
    at = opened = 0
    while (begins := _BEGIN.search(data, at)) is not None:
        begin = begins.start()
        opened += _opened(data, at, begin)
        end = _object_end(data, begin) if data[begin] == ord("{") else _other_end(data, begin)
        if end is None:
            return found, begin, opened
        at = end
        found.append((begin, at))
    return found, len(data), opened + _opened(data, at, len(data))


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
