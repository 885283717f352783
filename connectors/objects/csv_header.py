"""The dialect, columns and types of a CSV file: declared, or detected from its first rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from connectors.objects.block_text import BlockDecoder
from connectors.objects.charsets import UNKNOWN_CHARSET
from connectors.objects.content import HEAD_BYTES
from connectors.objects.csv_types import CONVERTERS, INFERRED, ColumnType, infer_type, takes
from connectors.objects.line_formats import INVALID
from connectors.objects.pages import record_maker, stub
from engine.errors import RecordError

_CANDIDATES: Final = ",;\t|"
_COMMAS_OF_TEXT: Final = re.compile(r"[^,]*(?:, [^,]*)*|[^,\w]*\d[\d.'\s]*,\d+[^,\w]*|[^,\w]*,\d+")
"""A field whose commas do not separate: before blanks, or in a decimal number."""
_EMPTY: Final = frozenset({""})
_SAMPLE_ROWS: Final = 1000
_SEPARATOR_LINE: Final = re.compile(r'(")?sep=([^\r\n"])(?(1)")\r?\n', re.IGNORECASE)
"""Excel's line before the header that names the delimiter."""
_JSON: Final = re.compile(r'\s*(?:\{\s*"|\[\s*["{\[])')
_MARKUP: Final = re.compile(r"\s*<(?:!doctype|html|\?xml)\b", re.IGNORECASE)


Agree = Callable[[str, ColumnType | None], ColumnType]
"""Returns the type to read a column with, by its name and the type of its values in a file (None: none)."""


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """The syntax of rows.

    Args:
        delimiter: character between fields; None detects `,`, `;`, tab or `|` from the first rows.
        header: the first row names the columns.
        quote: character around fields, doubled inside them; None for no quoting.
        nulls: texts that mean null.
        skip_lines: lines before the header, or before the first row without one.
        escape: character before one that has no meaning of its own; None for none.
    """

    delimiter: str | None = None
    header: bool = True
    quote: str | None = '"'
    nulls: frozenset[str] = frozenset({""})
    skip_lines: int = 0
    escape: str | None = None

    def is_special(self, text: str) -> bool:
        """Return whether a text has quotes or escapes."""
        return any(mark is not None and mark in text for mark in (self.quote, self.escape))

    def prepared(self, text: str) -> str:
        """Return a text in which the parser leaves nulls such as `\\N` as they are."""
        if self.escape is None:
            return text
        for null in self.nulls:
            if self.escape in null:
                ends = re.escape(f"{self.delimiter or _CANDIDATES}\r\n")
                alone = rf"(?<![^{ends}]){re.escape(null)}(?![^{ends}])"
                kept = null.replace(self.escape, 2 * self.escape)
                text = re.sub(alone, kept.replace("\\", r"\\"), text)
        return text

    def options(self) -> dict[str, Any]:
        """Return the arguments for `csv.reader`."""
        quoting = csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL
        return {
            "delimiter": self.delimiter or ",",
            "quotechar": self.quote,
            "quoting": quoting,
            "escapechar": self.escape,
            "strict": True,
        }


@dataclass(slots=True)
class Columns:
    """The columns of one file.

    Args:
        types: type of each, and whether it was declared.
        header_lines: number of lines before the first row of values.
        hint: remedy for rows of another width, if most of the first rows are.
    """

    dialect: CsvDialect
    names: Sequence[str]
    types: Sequence[tuple[ColumnType, bool]]
    header_lines: int
    hint: str = ""
    _make: Callable[[Sequence[Sequence[Any]]], list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._make = record_maker(self.names)

    @property
    def width(self) -> int:
        """Return the number of fields in a row."""
        return len(self.names)

    def records(
        self, path: str, rows: list[Any], numbers: Sequence[int], failures: list[tuple[int, RecordError]]
    ) -> tuple[list[Any], list[tuple[int, RecordError]]]:
        """Convert rows to records; rows listed in `failures` may be stubs."""
        if not rows:
            return rows, failures
        failed = {index for index, _ in failures}
        good = [row for index, row in enumerate(rows) if index not in failed] if failed else rows
        if not good:
            return rows, failures
        made = self.made_of(list(zip(*good, strict=True)))
        if made is None:
            return self._one_by_one(path, rows, numbers, failures)
        if not failed:
            return made, failures
        left = iter(made)
        return [row if index in failed else next(left) for index, row in enumerate(rows)], failures

    def made_of(self, columns: Sequence[Sequence[str]]) -> list[Any] | None:
        """Convert columns of texts to records; return None if a text is not of its column's type."""
        try:
            return self._make([self._convert(at, column) for at, column in enumerate(columns)])
        except ValueError:
            return None

    def _convert(self, at: int, column: Sequence[str]) -> Sequence[Any]:
        kind, declared = self.types[at]
        convert = (CONVERTERS if declared else INFERRED)[kind]
        nulls = self.dialect.nulls
        # searching for one text is faster than hashing each
        if "" not in column if nulls == _EMPTY else nulls.isdisjoint(column):
            return column if convert is None else convert(column)
        if convert is None:
            return [None if value in nulls else value for value in column]
        given = [value for value in column if value not in nulls]
        values = iter(convert(given) if given else given)
        return [None if value in nulls else next(values) for value in column]

    def _one_by_one(
        self, path: str, rows: list[Any], numbers: Sequence[int], failures: list[tuple[int, RecordError]]
    ) -> tuple[list[Any], list[tuple[int, RecordError]]]:
        failures = list(failures)
        failed = {index for index, _ in failures}
        records: list[Any] = []
        for index, row in enumerate(rows):
            if index in failed:
                records.append(row)
                continue
            record: dict[str, Any] = {}
            for at, (name, value) in enumerate(zip(self.names, row, strict=True)):
                try:
                    (record[name],) = self._convert(at, (value,))
                except ValueError:
                    error = self._wrong_type(f"{path}:{numbers[index]}", at)
                    failures.append((index, error))
                    delimiter = self.dialect.delimiter or ","
                    record = stub(path, numbers[index], delimiter.join(row), error)
                    break
            records.append(record)
        return records, failures

    def _wrong_type(self, where: str, at: int) -> RecordError:
        kind, declared = self.types[at]
        name = self.names[at]
        text = f"{where}: the field {name!r} is not of the type {kind}"
        if not declared:
            text += f", which the first rows have; `types: {{{name}: text}}` takes everything"
        return RecordError(text, kind="WrongType")


def read_columns(
    head: bytes,
    decoder: BlockDecoder,
    dialect: CsvDialect,
    names: Sequence[str],
    types: Mapping[str, ColumnType] | None,
    path: str,
    agree: Agree | None = None,
) -> Columns:
    """Read the columns of a file from its first bytes.

    Args:
        names: names of the columns, if the file has no header or a different one.
        types: types by name, the others are inferred; an empty mapping makes every column text.
        agree: decides on inferred types.

    Raises:
        RecordError: `WrongHeader`: the header is not a row, or lacks a column with a declared type.
    """
    # the last line of a longer file is cut off
    cut = head.rfind(b"\n") + 1 if len(head) >= HEAD_BYTES else 0
    whole = head[:cut] if cut else head
    text = decoder.decode(whole.removeprefix(b"\xef\xbb\xbf")).text
    _check_kind(text, path, may_be_json=bool(names) or not dialect.header)
    lines = [f"{line}\n" for line in dialect.prepared(text).split("\n")]
    separator = _SEPARATOR_LINE.fullmatch(lines[0])
    skipped = max(dialect.skip_lines, int(separator is not None))
    lines = lines[skipped:]
    if dialect.delimiter is None:
        delimiter = separator[2] if separator else _likeliest(lines, dialect, path)
        dialect = replace(dialect, delimiter=delimiter)
    rows, first_row_lines = _first_rows(lines, dialect)
    first = next(iter(rows), [])
    if dialect.header and not first and text.strip():
        what, skips = "its first line is not a row of a CSV file", dialect.skip_lines
        if skips:
            what = f"its first 64 KB have no header after the skipped lines (`skip_lines: {skips}`)"
        raise RecordError(f"{path}: {what}", kind="WrongHeader")
    named = list(names) or (
        column_names(first) if dialect.header else [f"column{at}" for at in range(len(first))]
    )
    if decoder.is_unknown and INVALID.search("".join(named)):
        raise RecordError(f"{path}: the header cannot be decoded: {UNKNOWN_CHARSET}", kind="InvalidText")
    check_names(named, types, path)
    values = rows[int(dialect.header) :]
    sample = [row for row in values if len(row) == len(named)]
    misplaced = dialect.header and not names and 2 * len(sample) < len(values)
    hint = "; if the header is on a later line, set `skip_lines`" if misplaced else ""
    found: list[tuple[ColumnType, bool]] = []
    for at, name in enumerate(named):
        if declared := declared_type(name, types):
            found.append((declared, True))
            continue
        given = [row[at] for row in sample if row[at] not in dialect.nulls]
        found.append((_inferred(name, given, agree), False))
    header_lines = skipped + (first_row_lines if dialect.header else 0)
    return Columns(dialect, named, found, header_lines, hint)


def check_names(named: Sequence[str], types: Mapping[str, ColumnType] | None, path: str) -> None:
    """Raise `RecordError` for a declared type of a column that a file lacks; an empty one may."""
    missing = sorted(set(types or ()) - set(named))
    if missing and named:
        raise RecordError(f"{path}: its header has no column {missing[0]!r}", kind="WrongHeader")


def declared_type(name: str, types: Mapping[str, ColumnType] | None) -> ColumnType | None:
    """Return the declared type of a column, None if it is to be inferred; an empty mapping makes all text."""
    return None if types is None else types.get(name, None if types else "text")


def _inferred(name: str, given: Sequence[str], agree: Agree | None) -> ColumnType:
    kind = infer_type(given) if given else None
    if agree is None:
        return kind or "text"
    used = agree(name, kind)
    # among the decimals of other files, a float would round a long integer
    return used if used == kind or not given or takes(used, given) else agree(name, "text")


def _check_kind(text: str, path: str, *, may_be_json: bool) -> None:
    """Raise `RecordError` for a page or a JSON document."""
    if _MARKUP.match(text):
        raise RecordError(f"{path}: it is a page of HTML or XML, not a CSV file", kind="WrongHeader")
    if not may_be_json and _JSON.match(text):
        message = f"{path}: it is JSON, not a CSV file; read it with `format: jsonl` or `json`"
        raise RecordError(message, kind="WrongHeader")


def _first_rows(lines: Sequence[str], dialect: CsvDialect) -> tuple[list[list[str]], int]:
    """Return non-empty rows, and the number of lines up to the end of the first one."""
    rows: list[list[str]] = []
    first_lines = 0
    reader = csv.reader(lines, **dialect.options())
    while len(rows) < _SAMPLE_ROWS:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:
            if not rows:
                break
            continue
        if row:
            rows.append(row)
            first_lines = first_lines or reader.line_num
    return rows, first_lines


def _likeliest(lines: Sequence[str], dialect: CsvDialect, path: str) -> str:
    """Return the delimiter for which most rows are as wide as the first one, and that one is widest.

    A comma may also be part of fields: a tab, or another one that leaves such commas only, is likelier.
    """
    if path.lower().split("/")[-1].find(".tsv") > 0:
        return "\t"
    best, best_score = ",", (0.0, 0)
    for candidate in _CANDIDATES:
        rows, _ = _first_rows(lines[:100], replace(dialect, delimiter=candidate))
        if not rows or len(rows[0]) < 2:
            continue
        score = (sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0]))
        likelier = best == "," and score[0] >= best_score[0] and _has_commas_of_text(rows, candidate)
        if score > best_score or likelier:
            best, best_score = candidate, score
    return best


def _has_commas_of_text(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    return delimiter == "\t" or all(_COMMAS_OF_TEXT.fullmatch(value) for row in rows for value in row)


def column_names(names: Sequence[str]) -> list[str]:
    """Return names of columns: `columnN` for one without a name, `name_1` for a repeated name.

    A name in the header stays with the first column that has it.
    """
    given = {stripped for name in names if (stripped := name.strip())}
    found: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for at, name in enumerate(names):
        stripped = name.strip()
        wanted = unique = stripped or f"column{at}"
        while unique in found or (unique in given and unique != stripped):
            numbers[wanted] = numbers.get(wanted, 0) + 1
            unique = f"{wanted}_{numbers[wanted]}"
        found[unique] = at
    return list(found)
