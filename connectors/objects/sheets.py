"""Read the rows of a workbook's sheet as texts (python-calamine); called in a worker process."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import reduce
from typing import Any, Final

from connectors.objects.csv_types import ColumnType, common_type
from connectors.objects.documents import ENCRYPTED
from connectors.objects.media_types import NOT_TEXT
from connectors.objects.pdf import PROTECTED
from engine.errors import RecordError

PAGE_CHARACTERS: Final = 1024 * 1024
_EXACT: Final = 1e15
"""Whole numbers below are exact in a workbook, which keeps 15 digits."""


def sheet_rows(data: bytes, name: str, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the `header` and `types` of a sheet's columns, then pages of `rows`: (number, cells) each.

    A column has the type that all its cells have in common. A page is short if its texts are long; a row that
    is longer than allowed has None instead of cells. Rows without values are left out.

    Args:
        wanted: `sheet`, `header`, `skip_lines`, `nulls`, `page`, `max_record`, and `before`, the number of
            rows that were read earlier.

    Raises:
        RecordError: also `NoSuchSheet`.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        sheet = _sheet(book, name, wanted["sheet"])
    except CalamineError as error:  # its own words may quote a cell
        if isinstance(error, PasswordError) or ENCRYPTED in data:
            raise RecordError(f"{name}: {PROTECTED}", kind="UnsupportedDocument") from error
        raise RecordError(f"{name}: {_what_instead(data)}", kind="CorruptDocument") from error
    nulls = {"", *wanted["nulls"]}
    skipped = wanted["skip_lines"]
    header: list[str] = []
    kinds: list[set[ColumnType]] = [set() for _ in range(sheet.width)]
    for number, row in _filled(sheet, skipped):
        if wanted["header"] and not header:
            header, skipped = [_text(value) for value in row], number
            if sum(map(len, header)) > wanted["max_record"]:
                message = f"{name}: its header is longer than {wanted['max_record']:,} (`max_record_bytes`)"
                raise RecordError(message, kind="WrongHeader")
            continue
        for value, seen in zip(row, kinds, strict=True):
            if value not in nulls:
                seen.add(_kind(value))
    yield {
        "rows": [],
        "header": header,
        "types": [reduce(common_type, seen) if seen else None for seen in kinds],
    }
    yield from _pages(_filled(sheet, max(skipped, wanted["before"])), wanted["page"], wanted["max_record"])


def _sheet(book: Any, name: str, wanted: str | int | None) -> Any:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    names: list[str] = book.sheet_names
    if wanted is None:
        kind, visible = SheetTypeEnum.WorkSheet, SheetVisibleEnum.Visible
        shown = [one.name for one in book.sheets_metadata if (one.typ, one.visible) == (kind, visible)]
        return book.get_sheet_by_name((shown or names)[0])
    if str(wanted) in names:
        return book.get_sheet_by_name(str(wanted))
    if isinstance(wanted, int) and 0 < wanted <= len(names):
        return book.get_sheet_by_index(wanted - 1)
    raise RecordError(
        f"{name}: it has no sheet {wanted!r}, but {', '.join(map(repr, names))}", kind="NoSuchSheet"
    )


def _what_instead(data: bytes) -> str:
    head = data[:4096]
    if head.lstrip(b"\xef\xbb\xbf\r\n ").startswith(b"<"):
        return "it is a page of HTML or XML, not a workbook; open it in a spreadsheet and save it as .xlsx"
    if head and b"\0" not in head and not head.startswith(tuple(NOT_TEXT)):
        return "it is text, not a workbook; read it with `format: csv`"
    return "it is not a workbook, or it is damaged"


def _filled(sheet: Any, before: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the rows with values after this many, and their numbers, from 1."""
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > before and any(value != "" for value in row):
            yield number, row


def _pages(rows: Iterator[tuple[int, Sequence[Any]]], most: int, max_record: int) -> Iterator[dict[str, Any]]:
    page: list[tuple[int, list[str] | None]] = []
    size = 0
    for number, row in rows:
        cells = [_text(value) for value in row]
        length = sum(map(len, cells))
        page.append((number, cells if length <= max_record else None))
        size += length
        if len(page) == most or size >= PAGE_CHARACTERS:
            yield {"rows": page, "size": size}
            page, size = [], 0
    if page:
        yield {"rows": page, "size": size}


def _kind(value: object) -> ColumnType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "integer" if value.is_integer() and abs(value) < _EXACT else "number"
    if isinstance(value, datetime):
        return "timestamp"
    return "date" if isinstance(value, date) else "text"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | time) else str(value)
