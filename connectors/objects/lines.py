"""Split chunks into lines with their positions, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import NamedTuple

ReadChunk = Callable[[], Awaitable[bytes]]
"""Returns the next bytes, none at the end."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_SAMPLE_BYTES = 16 * 1024
"""Bytes whose lines show about how long the others are."""


class Place(NamedTuple):
    """A position in a file: bytes and lines before it."""

    offset: int = 0
    line: int = 0


class LinePage(NamedTuple):
    """Lines without line ends, and the position after them. A line that is too long is None.

    `depth` is the number of arrays that enclose that position in a JSON file.
    """

    start: Place
    lines: list[bytes | None]
    end: Place
    depth: int = 0


class LineBlock(NamedTuple):
    """Lines as one piece of bytes, separated by line feeds. A line that is too long is empty.

    `long` has those by their number in the block, with the number of omitted bytes.
    """

    data: bytes
    lines: int
    end: Place
    long: dict[int, int]

    @property
    def before(self) -> int:
        """Return the number of lines before the block."""
        return self.end.line - self.lines


async def line_blocks(
    read: ReadChunk, start: Place, *, max_line: int, page_lines: int
) -> AsyncGenerator[LineBlock, None]:
    """Read lines as `line_pages` does, without creating an object for each."""
    cutter = _Cutter(start, max_line)
    ended = False
    while not ended:
        chunk = await read()
        ended = not chunk
        whole = None if ended else cutter.whole(chunk)
        if whole is not None:
            for begin, end, count in _pages(whole, page_lines):
                yield cutter.piece(whole[begin:end], count)
            continue
        lines, lengths = cutter.last() if ended else cutter.cut(chunk)
        for first in range(0, len(lines), page_lines):
            behind = first + page_lines
            page = cutter.page(lines[first:behind], lengths[first:behind], None)
            long = {at: lengths[first + at] - 1 for at, line in enumerate(page.lines) if line is None}
            data = b"\n".join([line or b"" for line in page.lines])
            yield LineBlock(data, len(page.lines), page.end, long)


def _pages(data: bytes, lines: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start, end and number of lines of each page. The data ends with a line feed."""
    sample = data[:_SAMPLE_BYTES]
    width = len(sample) / max(1, sample.count(b"\n"))
    end = 0
    while end < len(data):
        begin = end
        end = data.rfind(b"\n", begin, begin + int(width * lines)) + 1 or begin
        count = data.count(b"\n", begin, end)
        while count < lines and end < len(data):
            end, count = data.find(b"\n", end) + 1, count + 1
        while count > lines:
            end, count = data.rfind(b"\n", begin, end - 1) + 1, count - 1
        yield begin, end, count


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
        read: returns the bytes from `start` on.
        start: position where reading begins.
        max_line: maximum bytes of a line; longer ones are dropped.
        page_lines: maximum lines per page.
        until: stop before lines that begin at this offset or later; None reads to the end.
        whole_lines: omit a last line without a line end, which may still be being written.
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
"""Lines (None if too long), and their lengths including line ends."""


class _Cutter:
    """Splits chunks at line ends; an incomplete line waits for the next chunk."""

    def __init__(self, start: Place, max_line: int) -> None:
        self.place = start
        self._max = max_line
        self._rest: list[bytes] = []
        self._rest_length = 0
        self._first = start.offset == 0

    def cut(self, chunk: bytes) -> _Lines:
        """Return the lines that end in this chunk."""
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

    def whole(self, chunk: bytes) -> bytes | None:
        """Return the lines that end in this chunk as one piece; None, unconsumed, if one may be too long."""
        if self._rest_length + len(chunk) > self._max:
            return None
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            self._keep(chunk, len(chunk))
            return b""
        data = b"".join([*self._rest, chunk[:cut]])
        self._rest, self._rest_length = [], 0
        self._keep(chunk[cut:], len(chunk) - cut)
        return data

    def piece(self, data: bytes, count: int) -> LineBlock:
        """Make a block of this many lines."""
        self.place = Place(self.place.offset + len(data), self.place.line + count)
        data = data[:-1]
        if self._first:
            data, self._first = data.removeprefix(_BYTE_ORDER_MARK), False
        return LineBlock(data, count, self.place, {})

    def last(self) -> _Lines:
        """Return the last line, if it has no line end."""
        line, length = self._line(b"", 0)
        # also for a file with only a byte order mark
        return ([line], [length]) if line != b"" else ([], [])

    def page(self, lines: list[bytes | None], lengths: list[int], until: int | None) -> LinePage:
        """Make a page of these lines, up to the first that begins at `until` or later."""
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
        """Complete a waiting line with `ending`, whose length with its line end is `length`."""
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
