"""The format `csv`: one record for each row, by the standard library's parser.

Blocks of whole lines go through `csv.reader`, which counts the lines it has read, so every row has its line
number and every block its position. A row that continues beyond its block (a quoted line end) waits for the
next one.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.objects.block_text import BlockDecoder
from connectors.objects.content import Content
from connectors.objects.csv_header import Agree, Columns, CsvDialect, read_columns
from connectors.objects.csv_types import ColumnType
from connectors.objects.line_formats import INVALID, RECORD_BYTES, LineFormat, invalid_text, too_long
from connectors.objects.lines import LineBlock, Place
from connectors.objects.pages import SHOWN_BYTES, ObjectReader, RecordPage, RecordPlace, stub
from engine.errors import RecordError

_BLANK: Final = " \t\x0b\x0c\x1a"
"""A line of these alone is no row; DOS ends a text with the last one."""

_Failures = list[tuple[int, RecordError]]


@dataclass(frozen=True)
class CsvRows(LineFormat):
    """Each row becomes a record with the fields of the header."""

    dialect: CsvDialect = field(default_factory=CsvDialect)
    names: Sequence[str] = ()
    types: Mapping[str, ColumnType] | None = None
    agree: Agree | None = None

    async def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """Yield the records of an object from a position on."""
        # the parser's limit is global to the process; our own is checked here
        csv.field_size_limit(sys.maxsize)
        async with self.open(reader, start) as content, aclosing(self.blocks(content, start)) as blocks:
            decoder = self.decoder(content, start)
            # from the head alone, even when resuming, so that the names stay the same
            columns = self._columns(content, reader.path)
            parser = _Parser(reader.path, columns, decoder, self.max_record_bytes, start)
            async for block in blocks:
                found = parser.parse(block)
                if found is not None:
                    yield found
            found = parser.finish()
            if found is not None:
                yield found

    async def columns(self, reader: ObjectReader) -> Columns:
        """Return the columns of an object.

        Raises:
            ComponentError: as for `pages`.
        """
        async with self.open(reader, RecordPlace()) as content:
            return self._columns(content, reader.path)

    def _columns(self, content: Content, path: str) -> Columns:
        names = BlockDecoder(content.charset, content.declared)
        return read_columns(content.head, names, self.dialect, self.names, self.types, path, self.agree)


class _Parser:
    """Parses lines into records. An incomplete row waits for the next block."""

    def __init__(
        self, path: str, columns: Columns, decoder: BlockDecoder, max_record: int, start: RecordPlace
    ) -> None:
        self._path = path
        self._columns = columns
        self._decoder = decoder
        self._max = max_record
        self._options = columns.dialect.options()
        self._waiting = LineBlock(b"", 0, Place(start.at, start.before), {})
        self._arrived: list[LineBlock] = []
        self._lines = self._looked_at = 0

    def parse(self, block: LineBlock) -> RecordPage | None:
        """Return the records of the next lines; None while all of them wait."""
        self._arrived.append(block)
        self._lines += block.lines
        # waiting lines are not joined and parsed again for each small addition
        if self._lines < 2 * self._looked_at:
            return None
        return self._page(ended=False)

    def finish(self) -> RecordPage | None:
        """Return the records of waiting lines, at the end of the object."""
        return self._page(ended=True) if self._lines else None

    def _page(self, *, ended: bool) -> RecordPage | None:
        self._waiting = given = _joined(self._waiting, self._arrived)
        self._arrived = []
        before = given.before
        text, replaced = self._decoder.decode(given.data)
        header = min(max(0, self._columns.header_lines - before), given.lines)
        plain = self._plain_records(text, header, given)
        if plain is not None:
            records, taken = plain, given.lines
            numbers: Sequence[int] = range(before + header + 1, before + taken + 1)
            failures: _Failures = []
        else:
            prepared = self._columns.dialect.prepared(text)
            rows, numbers, failures, taken = self._rows(prepared, header, ended=ended)
            records, failures = self._columns.records(self._path, rows, numbers, failures)
        self._waiting = left = _behind(given, taken)
        self._lines = self._looked_at = left.lines
        if not taken:
            return None
        self._mark_invalid(text, records, numbers, failures)
        failures.sort(key=lambda failure: failure[0])
        nbytes = 2 * len(text) + RECORD_BYTES * len(records)
        waits = len(left.data) + bool(left.lines) + sum(left.long.values())
        end = RecordPlace(given.end.offset - waits, before + taken, self._decoder.encoding)
        return RecordPage(records, numbers, end, failures, replaced, self._decoder.guessed, nbytes)

    def _plain_records(self, text: str, header: int, given: LineBlock) -> list[Any] | None:
        """Return the records of lines without quotes if every line is a row; None otherwise."""
        dialect, delimiter = self._columns.dialect, self._options["delimiter"]
        if header:
            text = text.split("\n", header)[-1] if header < given.lines else ""
        if "\r" in text:
            text = text.replace("\r\n", "\n").removesuffix("\r")
        width, lines = self._columns.width, given.lines - header
        if width < 2 or not lines or "\r" in text or dialect.is_special(text) or given.long:
            return None
        # an extra field for the end of each line shows that every row has the right width
        fields = text.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
        if len(fields) != lines * (width + 1) - 1 or fields[width :: width + 1].count("\n") != lines - 1:
            return None
        return self._columns.made_of([fields[at :: width + 1] for at in range(width)])

    def _rows(
        self, text: str, header: int, *, ended: bool
    ) -> tuple[list[Any], Sequence[int], _Failures, int]:
        """Return rows with their first lines, failures, and the number of lines used."""
        lines = text.split("\n")
        try:
            reader = csv.reader(lines[header:], **self._options)
            rows = list(reader)
            if reader.line_num == len(rows) and set(map(len, rows)) == {self._columns.width} != {0}:
                first = self._waiting.before + header + 1
                return rows, range(first, first + len(rows)), [], header + len(rows)
        except csv.Error:
            pass
        return self._one_by_one([f"{line}\n" for line in lines], header, ended=ended)

    def _one_by_one(
        self, lines: list[str], taken: int, *, ended: bool
    ) -> tuple[list[Any], Sequence[int], _Failures, int]:
        """Do the same if rows span several lines, are empty, or invalid."""
        rows: list[Any] = []
        numbers: list[int] = []
        failures: _Failures = []
        feed = _Feed(lines, taken)
        reader = csv.reader(feed, **self._options)
        while taken < len(lines):
            feed.at = taken
            row, error = self._next(reader, feed, taken, ended=ended)
            if row is None and error is None:
                break  # the row continues on the next page
            # perhaps a stray quote opened it: parse the lines after the first again
            taken = feed.at = taken + 1 if error is not None and error.kind == "BrokenRow" else feed.at
            number = self._waiting.before + feed.begun_at + 1
            if error is not None:
                failures.append((len(rows), error))
                shown = "".join(lines[feed.begun_at : taken])[:SHOWN_BYTES]
                rows.append(stub(self._path, number, shown, error))
                numbers.append(number)
            elif row:
                rows.append(row)
                numbers.append(number)
        return rows, numbers, failures, taken

    def _next(
        self, reader: Iterator[list[str]], feed: _Feed, begin: int, *, ended: bool
    ) -> tuple[list[str] | None, RecordError | None]:
        """Return the row that begins at a line, or its error; neither if the row is incomplete."""
        feed.begun_at = begin
        where = f"{self._path}:{self._waiting.before + begin + 1}"
        try:
            row = next(reader)
        except csv.Error as error:
            unfinished = feed.at >= len(feed.lines) and "unexpected end of data" in str(error)
            if unfinished and not ended and sum(map(len, feed.lines[begin:])) <= self._max:
                return None, None
            return None, RecordError(f"{where}: {_reason(error)}", kind="BrokenRow")
        if not self._waiting.long.keys().isdisjoint(range(begin, feed.at)) or (
            feed.at > begin + 1 and sum(map(len, feed.lines[begin : feed.at])) > self._max
        ):
            return None, too_long(where, self._max)
        if row and len(row) != self._columns.width:
            if len(row) == 1 and not row[0].strip(_BLANK):
                return [], None
            what = f"the row has {len(row):,} fields, the header {self._columns.width:,}{self._columns.hint}"
            return None, RecordError(f"{where}: {what}", kind="WrongWidth")
        return row, None

    def _mark_invalid(
        self, text: str, records: list[Any], numbers: Sequence[int], failures: _Failures
    ) -> None:
        """Refuse records with lone surrogates, which mark invalid bytes."""
        if text.isascii() or not INVALID.search(text):
            return
        failed = {index for index, _ in failures}
        for index, record in enumerate(records):
            shown = ",".join(str(value) for value in record.values())
            if not INVALID.search(shown):
                continue
            error = invalid_text(f"{self._path}:{numbers[index]}", self._decoder)
            if index not in failed:
                failures.append((index, error))
            content = INVALID.sub("\ufffd", str(record["content"]) if index in failed else shown)
            records[index] = stub(self._path, numbers[index], content, error)


def _joined(first: LineBlock, others: Sequence[LineBlock]) -> LineBlock:
    blocks = [block for block in (first, *others) if block.lines]
    if len(blocks) == 1:
        return blocks[0]
    lines = 0
    long: dict[int, int] = {}
    for block in blocks:
        long |= {lines + at: length for at, length in block.long.items()}
        lines += block.lines
    return LineBlock(b"\n".join([block.data for block in blocks]), lines, blocks[-1].end, long)


def _behind(block: LineBlock, taken: int) -> LineBlock:
    """Return the rest of a block after this many lines."""
    if taken == block.lines:
        return LineBlock(b"", 0, block.end, {})
    data = block.data.split(b"\n", taken)[-1]
    long = {at - taken: length for at, length in block.long.items() if at >= taken}
    return LineBlock(data, block.lines - taken, block.end, long)


class _Feed:
    """Feeds lines to the parser; `at` is the next line, and `begun_at` the first line of the row."""

    def __init__(self, lines: Sequence[str], at: int) -> None:
        self.lines = lines
        self.at = self.begun_at = at

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= len(self.lines):
            raise StopIteration
        self.at += 1
        return self.lines[self.at - 1]


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened and not closed"
    if "expected after" in text:
        return (
            "there is text between a closing quote and the next delimiter; if a backslash is before quotes "
            "in fields, set `escape: '\\'`"
        )
    if "new-line character" in text:
        return "there is a carriage return in the middle of a field"
    return text
