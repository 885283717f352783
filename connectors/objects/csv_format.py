"""The format `csv`: one record for each row, by the standard library's parser.

Blocks of whole lines go through `csv.reader`, which says how many lines it has taken, so every row has its
line and every block its place. A row that continues beyond its block (a quoted line end) waits for more.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.objects.block_text import BlockDecoder
from connectors.objects.csv_header import Columns, CsvDialect, read_columns
from connectors.objects.csv_types import ColumnType
from connectors.objects.line_formats import INVALID, RECORD_BYTES, LineFormat, invalid_text, too_long
from connectors.objects.lines import Place
from connectors.objects.pages import SHOWN_BYTES, ObjectReader, RecordPage, RecordPlace, stub
from engine.errors import RecordError

__all__ = ["CsvRows"]

_Failures = list[tuple[int, RecordError]]


@dataclass(frozen=True)
class CsvRows(LineFormat):
    """Each row is a record with the fields that the header names."""

    dialect: CsvDialect = field(default_factory=CsvDialect)
    names: Sequence[str] = ()
    types: Mapping[str, ColumnType] | None = None

    async def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """The records of an object from a place on."""
        # the parser's own bound is one for all of the process, and ours is kept here
        csv.field_size_limit(sys.maxsize)
        async with self.open(reader, start) as (content, pages):
            decoder = self.decoder(content, start)
            columns = read_columns(content.head, decoder, self.dialect, self.names, self.types, reader.path)
            parser = _Parser(reader.path, columns, decoder, self.max_record_bytes, start)
            async for page in pages:
                found = parser.parse(page.lines, page.end)
                if found is not None:
                    yield found
            found = parser.finish()
            if found is not None:
                yield found


class _Parser:
    """Makes records of lines. What a page leaves of a row waits for the next page."""

    def __init__(
        self, path: str, columns: Columns, decoder: BlockDecoder, max_record: int, start: RecordPlace
    ) -> None:
        self._path = path
        self._columns = columns
        self._decoder = decoder
        self._max = max_record
        self._options = columns.dialect.options()
        self._waiting: list[bytes | None] = []
        self._looked_at = 0
        self._before = start.before
        self._end = Place(start.at, start.before)

    def parse(self, lines: Sequence[bytes | None], end: Place) -> RecordPage | None:
        """The records of the next lines; None while they all wait."""
        self._waiting += lines
        self._end = end
        # what waits is not parsed again with each small addition
        if len(self._waiting) < 2 * self._looked_at:
            return None
        return self._page(ended=False)

    def finish(self) -> RecordPage | None:
        """The records of what waits, at the end of the object."""
        return self._page(ended=True) if self._waiting else None

    def _page(self, *, ended: bool) -> RecordPage | None:
        given, before = self._waiting, self._before
        text, replaced = self._decoder.decode(b"\n".join([line or b"" for line in given]))
        header = min(max(0, self._columns.header_lines - before), len(given))
        rows, numbers, failures, taken = self._rows(text, header, ended=ended)
        self._waiting = given[taken:]
        self._looked_at = len(self._waiting)
        if not taken:
            return None
        self._before = before + taken
        records, failures = self._columns.records(self._path, rows, numbers, failures)
        self._mark_invalid(text, records, numbers, failures)
        failures.sort(key=lambda failure: failure[0])
        left = sum(len(line or b"") + 1 for line in self._waiting)
        end = RecordPlace(self._end.offset - left, self._before, self._decoder.encoding)
        nbytes = 2 * len(text) + RECORD_BYTES * len(records)
        return RecordPage(records, numbers, end, failures, replaced, self._decoder.guessed, nbytes)

    def _rows(
        self, text: str, header: int, *, ended: bool
    ) -> tuple[list[Any], Sequence[int], _Failures, int]:
        """Rows with the lines they begin at, failures, and how many of the lines were taken."""
        lines = io.StringIO(f"{text}\n", newline="\n")
        for _ in range(header):
            next(lines)
        try:
            reader = csv.reader(lines, **self._options)
            rows = list(reader)
            if reader.line_num == len(rows) and set(map(len, rows)) == {self._columns.width}:
                first = self._before + header + 1
                return rows, range(first, first + len(rows)), [], header + len(rows)
        except csv.Error:
            pass
        return self._one_by_one([f"{line}\n" for line in text.split("\n")], header, ended=ended)

    def _one_by_one(
        self, lines: list[str], taken: int, *, ended: bool
    ) -> tuple[list[Any], Sequence[int], _Failures, int]:
        """The same where rows take several lines, are empty, or wrong."""
        rows: list[Any] = []
        numbers: list[int] = []
        failures: _Failures = []
        feed = _Feed(lines, taken)
        reader = csv.reader(feed, **self._options)
        while taken < len(lines):
            feed.at = taken
            row, error = self._next(reader, feed, taken, ended=ended)
            if row is None and error is None:
                break  # it continues on the next page
            # perhaps a quote was never meant to open: the lines after the first are parsed again
            taken = feed.at = taken + 1 if error is not None and error.kind == "BrokenRow" else feed.at
            number = self._before + feed.begun_at + 1
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
        """The row that begins at a line, or what is wrong with it; neither when its end has not come yet."""
        feed.begun_at = begin
        where = f"{self._path}:{self._before + begin + 1}"
        try:
            row = next(reader)
        except csv.Error as error:
            unfinished = feed.at >= len(feed.lines) and "unexpected end of data" in str(error)
            if unfinished and not ended and sum(map(len, feed.lines[begin:])) <= self._max:
                return None, None
            return None, RecordError(f"{where}: {_reason(error)}", kind="BrokenRow")
        if None in self._waiting[begin : feed.at] or (
            feed.at > begin + 1 and sum(map(len, feed.lines[begin : feed.at])) > self._max
        ):
            return None, too_long(where, self._max)
        if row and len(row) != self._columns.width:
            what = f"the row has {len(row):,} fields, the header {self._columns.width:,}"
            return None, RecordError(f"{where}: {what}", kind="WrongWidth")
        return row, None

    def _mark_invalid(
        self, text: str, records: list[Any], numbers: Sequence[int], failures: _Failures
    ) -> None:
        """Refuse records with half surrogates, which stand for bytes that are invalid."""
        if not INVALID.search(text):
            return
        failed = {index for index, _ in failures}
        for index, record in enumerate(records):
            shown = ",".join(str(value) for value in record.values())
            if not INVALID.search(shown):
                continue
            error = invalid_text(f"{self._path}:{numbers[index]}")
            if index not in failed:
                failures.append((index, error))
            content = INVALID.sub("\ufffd", str(record["content"]) if index in failed else shown)
            records[index] = stub(self._path, numbers[index], content, error)


class _Feed:
    """Lines for the parser, from a line on; `at` is the next one, and `begun_at` where the row began."""

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
        return "something stands between a closing quote and the next delimiter"
    if "new-line character" in text:
        return "a carriage return stands in the middle of a field"
    return text
