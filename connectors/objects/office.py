"""Read the text of spreadsheets (python-calamine) and of presentations (python-pptx)."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from connectors.objects.word import check_unpacked_size, joined_lines
from engine.errors import RecordError

_OFFICE = "application/vnd.openxmlformats-officedocument"
XLSX = f"{_OFFICE}.spreadsheetml.sheet"
PPTX = f"{_OFFICE}.presentationml.presentation"
XLS = "application/vnd.ms-excel"
ODS = "application/vnd.oasis.opendocument.spreadsheet"


def read_spreadsheet(data: bytes, name: str, max_text: int) -> str:
    """Read the sheets of a workbook in order: the name, then a line per non-empty row.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (unpacked size).
    """
    from python_calamine import CalamineError, CalamineWorkbook

    _check_size(data, name)
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        return joined_lines(_sheets(book), max_text)
    except (CalamineError, zipfile.BadZipFile, ValueError) as error:
        raise RecordError(f"{name}: cannot read the spreadsheet: {error}", kind="CorruptDocument") from error


def _sheets(book: Any) -> Iterator[str]:
    for title in book.sheet_names:
        yield f"# {title}"
        for row in book.get_sheet_by_name(title).iter_rows():
            cells = [_cell(value) for value in row]
            if any(cells):
                yield " | ".join(cells).rstrip(" |")


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())


def read_pptx(data: bytes, name: str, max_text: int) -> str:
    """Read the slides of a presentation in order: texts, tables and notes.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (unpacked size).
    """
    from pptx import Presentation
    from pptx.exc import PythonPptxError

    _check_size(data, name)
    try:
        return joined_lines(_slides(Presentation(io.BytesIO(data))), max_text)
    except (
        PythonPptxError, zipfile.BadZipFile, SyntaxError, KeyError, ValueError, AttributeError, EOFError,
        zlib.error,
    ) as error:  # fmt: skip  # the errors of its layers come through, as with Word files
        raise RecordError(f"{name}: cannot read the presentation: {error}", kind="CorruptDocument") from error


def _slides(presentation: Any) -> Iterator[str]:
    for number, slide in enumerate(presentation.slides, 1):
        yield f"# Slide {number}"
        yield from _shapes(slide.shapes)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            yield slide.notes_slide.notes_text_frame.text


def _shapes(shapes: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        elif shape.has_text_frame:
            if shape.text_frame.text.strip():
                yield shape.text_frame.text.replace("\v", "\n")
        elif getattr(shape, "has_table", False):
            for row in shape.table.rows:
                yield " | ".join(cell.text.strip() for cell in row.cells)
        elif getattr(shape, "has_chart", False):
            yield from _chart(shape.chart)


def _chart(chart: Any) -> Iterator[str]:
    """The title of a chart, and a line for each series with its values by category."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield chart.chart_title.text_frame.text
    for plot in chart.plots:
        categories = [str(category) for category in plot.categories]
        if any(categories):
            yield " | ".join(["", *categories])
        for series in plot.series:
            yield " | ".join(
                [series.name or "", *("" if value is None else _cell(value) for value in series.values)]
            )


def _check_size(data: bytes, name: str) -> None:
    """Check the unpacked size; an old workbook is not an archive."""
    if not data.startswith(b"PK"):
        return
    try:
        check_unpacked_size(data, name)
    except zipfile.BadZipFile as error:
        raise RecordError(f"{name}: not a whole file: {error}", kind="CorruptDocument") from error
