"""The records of an answer in JSON lines or CSV, by the formats of files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

from connectors.http.client import Answer
from connectors.objects.content import ObjectBody, StoredBody
from connectors.objects.csv_format import CsvRows
from connectors.objects.csv_types import ColumnType
from connectors.objects.pages import ObjectReader, RecordPlace
from connectors.objects.params import ObjectParams
from connectors.objects.record_formats import record_format
from engine.errors import RecordError


async def read_rows(
    answer: Answer,
    format: Literal["jsonl", "csv"],  # noqa: A002 - what it is called in the pipeline's file
    types: Literal["infer", "text"] | dict[str, ColumnType],
    shown: str,
    known: dict[str, ColumnType],
    columns: set[str],
) -> tuple[list[Any], Mapping[int, RecordError]]:
    """Return the records, and the errors of unreadable ones by index.

    Args:
        types: declared types of columns.
        shown: names the answer in errors.
        known, columns: types and names of columns in earlier answers; get those of this one.

    Raises:
        RecordError: the answer cannot be read, or is CSV without the header of earlier ones.
    """

    @asynccontextmanager
    async def open_body(start: int, stop: int | None) -> AsyncGenerator[ObjectBody, None]:
        yield StoredBody(answer.body[start:stop], answer.headers.get("content-type"), len(answer.body))

    params = ObjectParams(format="csv", types=types) if format == "csv" else ObjectParams(format=format)
    reader = ObjectReader("", shown, len(answer.body), open_body)
    records: list[Any] = []
    failed: dict[int, RecordError] = {}

    def agree(column: str, kind: ColumnType | None) -> ColumnType:
        return known.get(column, "text") if kind is None else known.setdefault(column, kind)

    rows = record_format(params, agree)
    if isinstance(rows, CsvRows):
        names = set((await rows.columns(reader)).names)
        if names and columns and names.isdisjoint(columns):
            raise RecordError("it has no header with the columns of earlier answers", kind="WrongHeader")
        columns |= names
    async with aclosing(rows.pages(reader, RecordPlace())) as pages:
        async for page in pages:
            failed |= {len(records) + index: error for index, error in page.failures}
            records += page.records
    return records, failed
