"""Split chunks into lines with their positions, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

__all__ = ["LinePage", "Place", "ReadChunk", "line_pages"]

ReadChunk = Callable[[], Awaitable[bytes]]
"""Gives the next bytes, none at the end."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """A position in a file: bytes and lines before it."""

    offset: int = 0
    line: int = 0


class LinePage(NamedTuple):
    """Lines without line ends, and the position after them. None is a line that is too long."""

    start: Place
    lines: list[bytes | None]
    end: Place


async def line_pages(
    read: ReadChunk,
    start: Place,
    *,
    max_line: int,
    page_lines: int,
    until: int | None = None,
    whole_lines: bool = False,
) -> AsyncGenerator[LinePage, None]:
    """Read lines from `start` as they arrive, at most `page_lines` per page.

    Args:
        read: gives the bytes from `start` on.
        start: where reading begins.
        max_line: bytes of the longest line that is kept.
        page_lines: lines on one page.
        until: lines that begin at this offset or after it are left out; None: up to the end.
        whole_lines: leave out a last line that has no line end: somebody may still be writing it.
    """
    cutter = _Cutter(start, max_line)
    ended = False
    while not ended:
        chunk = await read()
        ended = not chunk
        if ended and whole_lines:
            return
        lines, lengths = cutter.last() if ended else cutter.cut(chunk)
        for first in range(0, len(lines), page_lines):
            behind = first + page_lines
            page = cutter.page(lines[first:behind], lengths[first:behind], until)
            if page.lines:
                yield page
            if until is not None and cutter.place.offset >= until:
                return


_Lines = tuple[list[bytes | None], list[int]]
"""Lines, None for those that are too long, and their lengths with their line ends."""


class _Cutter:
    """Cuts chunks at line ends; what is left waits for the next chunk."""

    def __init__(self, start: Place, max_line: int) -> None:
        self.place = start
        self._max = max_line
        self._rest: list[bytes] = []
        self._rest_length = 0
        self._first = start.offset == 0

    def cut(self, chunk: bytes) -> _Lines:
        """The lines that end in this chunk."""
        *whole, rest = chunk.split(b"\n")
        lengths = [len(line) + 1 for line in whole]
        lines: list[bytes | None] = [*whole]
        if lines:
            if max(lengths) > self._max + 1:
                lines = [
                    line if length <= self._max + 1 else None
                    for line, length in zip(lines, lengths, strict=True)
                ]
            lines[0], lengths[0] = self._line(lines[0], lengths[0])
        self._keep(rest, len(rest))
        return lines, lengths

    def last(self) -> _Lines:
        """The last line, if it has no line end."""
        line, length = self._line(b"", 0)
        # also where there is nothing but a byte order mark
        return ([line], [length]) if line != b"" else ([], [])

    def page(self, lines: list[bytes | None], lengths: list[int], until: int | None) -> LinePage:
        """Take these lines as read, up to the first that begins at `until` or after it."""
        start = self.place
        offset = start.offset + sum(lengths)
        if until is not None and offset > until:
            offset, count = start.offset, 0
            while count < len(lengths) and offset < until:
                offset += lengths[count]
                count += 1
            lines = lines[:count]
        self.place = Place(offset, start.line + len(lines))
        return LinePage(start, lines, self.place)

    def _line(self, ending: bytes | None, length: int) -> tuple[bytes | None, int]:
        """The line that began earlier and ends with `ending`; `length` is that one's, with its line end."""
        line_end = int(length > 0)
        self._keep(ending, length - line_end)
        length = self._rest_length
        data = b"".join(self._rest) if length <= self._max else None
        self._rest, self._rest_length = [], 0
        if self._first and data is not None:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        self._first = False
        return data, length + line_end

    def _keep(self, part: bytes | None, length: int) -> None:
        self._rest_length += length
        if self._rest_length > self._max:
            self._rest.clear()
        elif part:
            self._rest.append(part)
