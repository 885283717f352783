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
        until: lines that begin at this offset or behind it are left out; None: up to the end.
        whole_lines: leave out a last line that has no line end: somebody may still be writing it.
    """
    cutter = _Cutter(start, max_line)
    ended = False
    while not ended:
        chunk = await read()
        ended = not chunk
        if ended and whole_lines:
            return
        lines = cutter.last() if ended else cutter.cut(chunk)
        for first in range(0, len(lines), page_lines):
            page = cutter.page(lines[first : first + page_lines], until)
            if page.lines:
                yield page
            if until is not None and cutter.place.offset >= until:
                return


class _Line(NamedTuple):
    data: bytes | None
    length: int
    """With its line end."""


class _Cutter:
    """Cuts chunks at line ends; what is left waits for the next chunk."""

    def __init__(self, start: Place, max_line: int) -> None:
        self.place = start
        self._max = max_line
        self._rest: list[bytes] = []
        self._rest_length = 0
        self._first = start.offset == 0

    def cut(self, chunk: bytes) -> list[_Line]:
        """The lines that end in this chunk."""
        *whole, rest = chunk.split(b"\n")
        lines: list[_Line] = []
        if whole:
            lines.append(self._line(whole[0], 1))
            lines += [_Line(self._kept(line), len(line) + 1) for line in whole[1:]]
        self._keep(rest)
        return lines

    def last(self) -> list[_Line]:
        """The last line, if it has no line end."""
        line = self._line(b"", 0)
        return [line] if line.data != b"" else []  # also where there is nothing but a byte order mark

    def page(self, lines: list[_Line], until: int | None) -> LinePage:
        """Take these lines as read, up to the first that begins at `until` or behind it."""
        start = self.place
        offset, count = start.offset, 0
        for line in lines:
            if until is not None and offset >= until:
                break
            offset += line.length
            count += 1
        self.place = Place(offset, start.line + count)
        return LinePage(start, [line.data for line in lines[:count]], self.place)

    def _line(self, ending: bytes, line_end: int) -> _Line:
        """The line that began in earlier chunks and ends with `ending`."""
        self._keep(ending)
        length = self._rest_length
        data = b"".join(self._rest) if length <= self._max else None
        self._rest, self._rest_length = [], 0
        if self._first and data is not None:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        self._first = False
        return _Line(data, length + line_end)

    def _kept(self, line: bytes) -> bytes | None:
        return line if len(line) <= self._max else None

    def _keep(self, part: bytes) -> None:
        self._rest_length += len(part)
        if self._rest_length > self._max:
            self._rest.clear()
        elif part:
            self._rest.append(part)
