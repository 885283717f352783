"""The formats `lines` and `jsonl`: one record per line; and `json`: each object of a file, over any lines."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from connectors.json_lines import is_utf8, parse_line, parse_lines
from connectors.objects.block_text import BlockDecoder
from connectors.objects.charsets import UNKNOWN_CHARSET
from connectors.objects.content import Content, ContentOptions, ReadBytes, open_content
from connectors.objects.lines import LineBlock, LinePage, Place, line_blocks, line_pages
from connectors.objects.media_types import NOT_TEXT, by_content, what_instead
from connectors.objects.pages import ObjectReader, RecordPage, RecordPlace, stub
from engine.errors import RecordError

T = TypeVar("T")

RECORD_BYTES = 300
"""Approximate memory of a record in addition to its text."""

INVALID = re.compile("[\udc80-\udcff]")

_SIGNATURE_BYTES = 16
_ZEROS = re.compile(rb"\0+")
_CONTROLS = re.compile(rb"[\x01-\x07\x0e-\x1a\x1c-\x1f]")
_TEXT_BYTES_PER_RUN = 4
"""Minimum bytes of text per run of zeros: unrecognised UTF-16 has one zero per byte."""


@dataclass(frozen=True)
class LineFormat:
    """The common part of formats with one record per line."""

    options: ContentOptions
    max_record_bytes: int
    page_records: int

    @asynccontextmanager
    async def open(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[Content, None]:
        """Open the content of an object at a position.

        Raises:
            RecordError: also `NotText`.
        """
        async with open_content(reader.open, reader.name, self.options, start=start.at) as content:
            if not _is_text(content.head):
                raise RecordError(f"{reader.path} is not text{what_instead(content.head)}", kind="NotText")
            yield content

    def lines(self, content: Content, start: RecordPlace, path: str) -> AsyncGenerator[LinePage, None]:
        """Read lines of content that was opened at this position; `path` is for messages."""
        return self._read(line_pages, content, start)

    def blocks(self, content: Content, start: RecordPlace) -> AsyncGenerator[LineBlock, None]:
        """Read the same lines in blocks."""
        return self._read(line_blocks, content, start)

    def _read(self, read: Callable[..., T], content: Content, start: RecordPlace) -> T:
        limits = {"max_line": self.max_record_bytes, "page_lines": self.page_records}
        return read(content.read, Place(start.at, start.before), **limits)

    def decoder(self, content: Content, start: RecordPlace) -> BlockDecoder:
        """Return a decoder for the lines of an object."""
        strict = self.options.strict_text
        return BlockDecoder(content.charset, content.declared, start.encoding, strict=strict)


class PlainLines(LineFormat):
    """A format whose lines are independent: no header, no quotes."""

    async def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """Yield the records of an object from a position on."""
        async with (
            self.open(reader, start) as content,
            aclosing(self.lines(content, start, reader.path)) as pages,
        ):
            decoder = self.decoder(content, start)
            async for page in pages:
                yield self._page(reader.path, page, decoder)

    def _page(self, path: str, page: LinePage, decoder: BlockDecoder) -> RecordPage:
        raise NotImplementedError


class TextLines(PlainLines):
    """Each line becomes a record: `file_path`, `line` (from 1) and `content`, without its line end."""

    def _page(self, path: str, page: LinePage, decoder: BlockDecoder) -> RecordPage:
        block = b"\n".join([b"" if line is None else line for line in page.lines])
        text, replaced = decoder.decode(block)
        first = page.start.line + 1
        numbers = range(first, first + len(page.lines))
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        failures: list[tuple[int, RecordError]] = []
        records: list[Any] = [
            {"file_path": path, "line": number, "content": line}
            for number, line in zip(numbers, lines, strict=True)
        ]
        for index, error in self._wrong(path, page.lines, lines, decoder, numbers):
            records[index] = stub(path, numbers[index], page.lines[index], error)
            failures.append((index, error))
        end = RecordPlace(page.end.offset, page.end.line, decoder.encoding)
        nbytes = 2 * len(block) + RECORD_BYTES * len(records)
        return RecordPage(records, numbers, end, failures, replaced, decoder.guessed, nbytes)

    def _wrong(
        self,
        path: str,
        raw: Sequence[bytes | None],
        lines: Sequence[str],
        decoder: BlockDecoder,
        numbers: range,
    ) -> list[tuple[int, RecordError]]:
        if not decoder.refuses and None not in raw:
            return []
        wrong: list[tuple[int, RecordError]] = []
        for index, (line, decoded) in enumerate(zip(raw, lines, strict=True)):
            where = f"{path}:{numbers[index]}"
            if line is None:
                wrong.append((index, too_long(where, self.max_record_bytes)))
            elif decoder.refuses and INVALID.search(decoded):
                wrong.append((index, invalid_text(where, decoder)))
        return wrong


class JsonLines(PlainLines):
    """Each line is a JSON object and becomes a record. Empty lines are skipped."""

    def _page(self, path: str, page: LinePage, decoder: BlockDecoder) -> RecordPage:
        first = page.start.line + 1
        numbers: Sequence[int] = range(first, first + len(page.lines))
        failures: list[tuple[int, RecordError]] = []
        nbytes = sum(len(line) for line in page.lines if line is not None)
        replaced, decoded = 0, decoder.encoding not in ("", "utf-8")
        if decoded:
            page, replaced = _in_utf8(page, decoder)
        records = parse_lines(page.lines)
        if records is None:
            if not decoded:  # orjson accepts only valid UTF-8, so most pages need no further check
                page, replaced = _in_utf8(page, decoder)
            records, numbers, failures = self._one_by_one(path, page, decoder)
        end = RecordPlace(page.end.offset, page.end.line, decoder.encoding, page.depth)
        nbytes = 3 * nbytes + RECORD_BYTES * len(records)
        return RecordPage(records, numbers, end, failures, replaced, decoder.guessed, nbytes)

    def _one_by_one(
        self, path: str, page: LinePage, decoder: BlockDecoder
    ) -> tuple[list[Any], list[int], list[tuple[int, RecordError]]]:
        records: list[Any] = []
        numbers: list[int] = []
        failures: list[tuple[int, RecordError]] = []
        for number, line in enumerate(page.lines, page.start.line + 1):
            if line is not None and not line.strip():
                continue
            where = f"{path}:{number}"
            numbers.append(number)
            try:
                if line is None:
                    raise too_long(where, self.max_record_bytes)
                if decoder.refuses and not is_utf8(line):
                    raise invalid_text(where, decoder)
                records.append(parse_line(line, where))
            except RecordError as error:
                failures.append((len(records), error))
                records.append(stub(path, number, line, error))
        return records, numbers, failures


def _is_text(head: bytes) -> bool:
    """Return whether the beginning is text. Text may have zeros in values, or where a crash left a gap."""
    if head.startswith(tuple(NOT_TEXT)):
        return False
    runs = len(_ZEROS.findall(head))
    if not runs:
        return _CONTROLS.search(head[:_SIGNATURE_BYTES]) is None or by_content(head, "") is None
    text = head.replace(b"\0", b"")
    return (
        len(text) >= _TEXT_BYTES_PER_RUN * runs
        and not _CONTROLS.search(text)
        and by_content(head, "") is None
    )


def _in_utf8(page: LinePage, decoder: BlockDecoder) -> tuple[LinePage, int]:
    """Return the lines in UTF-8, and how many of their characters replace invalid bytes."""
    block = b"\n".join([b"" if line is None else line for line in page.lines])
    if block.isascii() or (decoder.encoding in ("", "utf-8") and is_utf8(block)):
        return page, 0
    text, replaced = decoder.decode(block)
    decoded = text.encode("utf-8", "surrogateescape").split(b"\n")
    lines = [None if was is None else line for was, line in zip(page.lines, decoded, strict=True)]
    return page._replace(lines=lines), replaced


def too_long(where: str, limit: int) -> RecordError:
    """Return the failure of a record that is too long."""
    return RecordError(
        f"{where}: the record is longer than {limit:,} bytes (`max_record_bytes`)", kind="LongLine"
    )


def invalid_text(where: str, decoder: BlockDecoder) -> RecordError:
    """Return the failure of a record whose text is not valid in its encoding, or in any known one."""
    why = UNKNOWN_CHARSET if decoder.is_unknown else "the text is not valid in its encoding (`strict_text`)"
    return RecordError(f"{where}: {why}", kind="InvalidText")


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
