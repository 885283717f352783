"""Objects in memory, and the records that formats read from them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from connectors.objects.content import ObjectBody
from connectors.objects.pages import ObjectReader, RecordFormat, RecordPage, RecordPlace
from connectors.objects.params import ObjectParams
from connectors.objects.record_formats import record_format


class InPieces:
    """A body that arrives a few bytes at a time."""

    def __init__(self, data: bytes, size: int, piece: int, content_type: str | None, encoding: str | None):
        self.content_type, self.content_encoding = content_type, encoding
        self.size = size
        self._data = data
        self._piece = piece

    async def read(self) -> bytes:
        data, self._data = self._data[: self._piece], self._data[self._piece :]
        return data


def reader_of(
    data: bytes,
    name: str = "a.txt",
    *,
    piece: int = 1 << 16,
    content_type: str | None = None,
    encoding: str | None = None,
) -> ObjectReader:
    @asynccontextmanager
    async def open_body(start: int, stop: int | None) -> AsyncGenerator[ObjectBody, None]:
        yield InPieces(data[start:stop], len(data), piece, content_type, encoding)

    return ObjectReader(name, f"s3://b/{name}", len(data), open_body)


def format_of(**params: Any) -> RecordFormat:
    return record_format(ObjectParams(**params))


async def pages_of(reader: ObjectReader, place: RecordPlace | None = None, **params: Any) -> list[RecordPage]:
    async with aclosing(format_of(**params).pages(reader, place or RecordPlace())) as pages:
        return [page async for page in pages]


async def read_ends(
    format: RecordFormat,  # noqa: A002 - what it is called in the pipeline's file
    reader: ObjectReader,
    place: RecordPlace,
    ends: list[RecordPlace],
) -> None:
    """Add the position after each page to `ends`, also if the last one fails."""
    async with aclosing(format.pages(reader, place)) as pages:
        async for page in pages:
            ends += [page.end]


def good(pages: list[RecordPage]) -> list[Any]:
    """The records that could be read."""
    found: list[Any] = []
    for page in pages:
        failed = {index for index, _ in page.failures}
        found += [record for index, record in enumerate(page.records) if index not in failed]
    return found


def dead(pages: list[RecordPage]) -> dict[int, str]:
    """The kind of each failure by its line or row."""
    return {page.numbers[index]: error.kind for page in pages for index, error in page.failures}


def numbered(pages: list[RecordPage]) -> list[tuple[int, Any]]:
    """All records with their lines or rows, failures as their kind."""
    found: list[tuple[int, Any]] = []
    for page in pages:
        failed = {index: error.kind for index, error in page.failures}
        found += [
            (number, failed.get(index, record))
            for index, (number, record) in enumerate(zip(page.numbers, page.records, strict=True))
        ]
    return found
