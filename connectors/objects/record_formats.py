"""The formats with many records per object, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.objects.content import ContentOptions
from connectors.objects.pages import RecordFormat
from connectors.objects.params import ObjectParams

if TYPE_CHECKING:
    from connectors.objects.csv_header import Agree


def record_format(params: ObjectParams, agree: Agree | None = None) -> RecordFormat:
    """Return the format of these parameters; `params.streams` has to be true.

    Args:
        agree: for CSV and workbooks: decides on inferred types.

    Raises:
        FatalError: a library that it needs is not installed.
    """
    # imported lazily: each needs libraries that the others do not
    if params.format == "parquet":
        from connectors.objects.parquet_format import ParquetRows, pyarrow

        pyarrow()
        return ParquetRows(params.page_records)
    if params.format == "xlsx":
        from connectors.objects.workbook_format import SheetRows

        return SheetRows(params, agree)
    options = ContentOptions(
        charset=params.known_charset,
        strict_text=params.strict_text,
        max_bytes=params.max_unpacked_bytes,
        max_ratio=params.max_unpacked_ratio,
        braces=params.format == "json",
    )
    if params.format == "csv":
        from connectors.objects.csv_format import CsvRows
        from connectors.objects.csv_header import CsvDialect

        nulls = frozenset(params.null_values)
        dialect = CsvDialect(
            params.delimiter, params.header, params.quote, nulls, params.skip_lines, params.escape
        )
        names, types = params.columns, params.declared_types
        return CsvRows(options, params.max_record_bytes, params.page_records, dialect, names, types, agree)
    if params.format == "json":
        from connectors.objects.line_formats import JsonValues

        return JsonValues(options, params.max_record_bytes, params.page_records)
    from connectors.objects.line_formats import JsonLines, TextLines

    kind = JsonLines if params.format == "jsonl" else TextLines
    return kind(options, params.max_record_bytes, params.page_records)
