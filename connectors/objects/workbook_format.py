"""The format `xlsx`: one record per row of a workbook's sheet, read in a worker process with limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from connectors.objects.csv_header import Agree, Columns, CsvDialect, check_names, column_names, declared_type
from connectors.objects.csv_types import ColumnType
from connectors.objects.isolation import DocumentReader, ReaderLimits
from connectors.objects.line_formats import RECORD_BYTES, too_long
from connectors.objects.pages import ObjectReader, RecordPage, RecordPlace, stub
from connectors.objects.params import ObjectParams
from engine.errors import RecordError

LIMITS = ReaderLimits(seconds=240, memory=2 * 1024**3)
"""A million rows of 15 columns take 1.3 GB and, on a slow core, 80 s."""


@dataclass(frozen=True)
class SheetRows:
    """Each row becomes a record with the fields of the header."""

    params: ObjectParams
    agree: Agree | None = None

    async def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """Yield the records of an object from a position on."""
        params = self.params
        size = await reader.stored_size()
        if size > params.max_object_bytes:
            raise RecordError(
                f"{reader.path} has {size:,} bytes, more than the {params.max_object_bytes:,} of "
                "`max_object_bytes`",
                kind="ObjectTooLarge",
            )
        wanted = {
            "sheet": params.sheet, "header": params.header, "skip_lines": params.skip_lines,
            "nulls": params.null_values, "page": params.page_records, "max_record": params.max_record_bytes,
            "before": start.before,
        }  # fmt: skip
        columns: Columns | None = None
        kept: Sequence[int] = ()
        async with (
            DocumentReader(LIMITS) as documents,
            aclosing(documents.rows(reader, size, wanted)) as answers,
        ):
            async for answer in answers:
                if columns is None:
                    columns, kept = self._columns(answer["header"], answer["types"], reader.path)
                else:
                    yield self._page(reader.path, columns, kept, answer)

    def _columns(
        self, header: Sequence[str], types: list[ColumnType | None], path: str
    ) -> tuple[Columns, Sequence[int]]:
        """Return the columns of a sheet and their places; those without a name and values are left out."""
        names, declared = self.params.columns, self.params.declared_types
        kept: Sequence[int] = range(len(names))
        types += [None] * (len(names) - len(types))
        if names and any(types[len(names) :]):
            message = f"{path}: the sheet has {len(types):,} columns, and `columns` names {len(names):,}"
            raise RecordError(message, kind="WrongHeader")
        if not names:
            given = column_names(header or [""] * len(types))
            kept = [at for at, kind in enumerate(types) if kind or (header and header[at].strip())]
            names = [given[at] for at in kept]
        check_names(names, declared, path)
        found: list[tuple[ColumnType, bool]] = []
        for name, at in zip(names, kept, strict=True):
            kind = declared_type(name, declared)
            if kind is None:
                kind = types[at] if self.agree is None else self.agree(name, types[at])
            found.append((kind or "text", True))
        dialect = CsvDialect(nulls=frozenset({"", *self.params.null_values}))
        return Columns(dialect, names, found, 0), kept

    def _page(
        self, path: str, columns: Columns, kept: Sequence[int], answer: Mapping[str, Any]
    ) -> RecordPage:
        numbers: list[int] = []
        rows: list[Any] = []
        failures: list[tuple[int, RecordError]] = []
        for number, cells in answer["rows"]:
            if cells is None:
                error = too_long(f"{path}:{number}", self.params.max_record_bytes)
                failures.append((len(rows), error))
                rows.append(stub(path, number, None, error))
            else:
                rows.append([cells[at] if at < len(cells) else "" for at in kept])
            numbers.append(number)
        records, failures = columns.records(path, rows, numbers, failures)
        failures.sort(key=lambda failure: failure[0])
        nbytes = 2 * answer["size"] + RECORD_BYTES * len(rows)
        return RecordPage(records, numbers, RecordPlace(0, numbers[-1]), failures, nbytes=nbytes)
