"""The format `parquet`: one record per row, read with pyarrow one row group at a time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread

from connectors.objects.csv_header import column_names
from connectors.objects.pages import ObjectReader, RecordPage, RecordPlace, record_maker, stub
from connectors.objects.parquet_values import MendedTexts, converter_of, unreadable_places
from engine.contract.imports import load_modules
from engine.errors import FatalError, RecordError

AHEAD_BYTES = 1024 * 1024
"""Minimum bytes per read."""

RECORD_BYTES = 300
_NOT_INSTALLED = "Parquet needs a library that is not installed: pip install 'odw-engine[parquet]'"

T = TypeVar("T")


def pyarrow(name: str = "pyarrow") -> Any:
    """Import a module of pyarrow.

    Raises:
        FatalError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise FatalError(_NOT_INSTALLED) from error


async def load_pyarrow() -> None:
    """Import pyarrow without blocking the event loop: it takes half a second.

    Raises:
        FatalError: it is not installed.
    """
    try:
        await load_modules("pyarrow.parquet")
    except ImportError as error:
        raise FatalError(_NOT_INSTALLED) from error


@dataclass(frozen=True)
class ParquetRows:
    """Each row becomes a record. Dates, times and decimals are text, bytes are base64."""

    page_records: int

    async def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """Yield the records of an object from a position on."""
        await load_pyarrow()
        loop = asyncio.get_running_loop()
        size = await reader.stored_size()
        file = _RangedFile(reader, size, lambda work: asyncio.run_coroutine_threadsafe(work, loop).result())
        rows = await _in_thread(reader, _Rows, reader.path, file, self.page_records, start)
        try:
            while (page := await _in_thread(reader, rows.next)) is not None:
                yield page
        finally:
            rows.close()


async def _in_thread(reader: ObjectReader, work: Callable[..., T], *arguments: Any) -> T:
    arrow = pyarrow()
    try:
        return await anyio.to_thread.run_sync(work, *arguments)
    except (arrow.ArrowException, EOFError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk; pyarrow's have no errno
        # its own words may quote values
        what = "encrypted" if "crypt" in str(error) else "not a Parquet file, or damaged"
        raise RecordError(
            f"{reader.path}: it is {what} ({type(error).__name__})",
            kind="ObjectDamaged",
        ) from error


class _Rows:
    """Reads the rows of a file from a position on; called in worker threads, one call at a time."""

    def __init__(self, path: str, file: io.RawIOBase, page_records: int, start: RecordPlace) -> None:
        parquet = pyarrow("pyarrow.parquet")
        # no threads and no whole column chunks, so memory holds only a few pages of values
        self._file = parquet.ParquetFile(
            file, buffer_size=AHEAD_BYTES, pre_buffer=False, page_checksum_verification=True
        )
        self._path = path
        self._page = page_records
        self._converters = [converter_of(field.type) for field in self._file.schema_arrow]
        names = self._file.schema_arrow.names
        self._names = column_names(names) if len(set(names)) < len(names) else names
        self._make = record_maker(self._names)
        self._group, self._before = start.at, start.before
        counts = [self._file.metadata.row_group(at).num_rows for at in range(self._file.num_row_groups)]
        self._skip = start.before - sum(counts[: start.at])
        self._batches: Any = None

    def next(self) -> RecordPage | None:
        """Return the next rows, None at the end."""
        while self._group < self._file.num_row_groups:
            if self._batches is None:
                self._batches = self._file.iter_batches(
                    self._page, row_groups=[self._group], use_threads=False
                )
            batch = next(self._batches, None)
            if batch is None:
                self._group, self._batches, self._skip = self._group + 1, None, 0
                continue
            if self._skip >= batch.num_rows:
                self._skip -= batch.num_rows
                continue
            batch, self._skip = batch.slice(self._skip), 0
            numbers = range(self._before + 1, self._before + batch.num_rows + 1)
            self._before += batch.num_rows
            records, failures, replaced = self._records(batch, numbers)
            return RecordPage(
                records,
                numbers,
                RecordPlace(self._group, self._before),
                failures,
                replaced,
                nbytes=2 * batch.nbytes + RECORD_BYTES * batch.num_rows,
            )
        return None

    def _records(
        self, batch: Any, numbers: range
    ) -> tuple[list[dict[str, Any]], list[tuple[int, RecordError]], int]:
        columns = [
            convert(column) if convert is not None else column.to_pylist()
            for column, convert in zip(batch.columns, self._converters, strict=True)
        ]
        names = self._names
        records = self._make(columns) if columns else [{} for _ in range(batch.num_rows)]
        failures: dict[int, RecordError] = {}
        for name, column, convert in zip(names, columns, self._converters, strict=True):
            for index in unreadable_places(column, convert):
                number = numbers[index]
                error = RecordError(
                    f"{self._path}: row {number}: the field {name!r} has a value that JSON has no form for, "
                    "such as a time outside of the calendar",
                    kind="WrongType",
                )
                failures[index] = error
                records[index] = stub(self._path, number, None, error)
        replaced = sum(column.replaced for column in columns if isinstance(column, MendedTexts))
        return records, sorted(failures.items()), replaced

    def close(self) -> None:
        """Close the file."""
        self._batches = None
        self._file.close()


class _RangedFile(io.RawIOBase):
    """An object as a file, whose ranges are fetched on demand."""

    def __init__(
        self, reader: ObjectReader, size: int, wait: Callable[[Coroutine[Any, Any, bytes]], bytes]
    ) -> None:
        self._reader = reader
        self._size = size
        self._wait = wait
        self._at = 0
        self._ahead_at, self._ahead = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        inside = self._at - self._ahead_at
        if inside < 0 or end > self._ahead_at + len(self._ahead):
            # the footer is read backwards, everything else forwards
            begin = self._at if self._at + AHEAD_BYTES < self._size else max(0, end - AHEAD_BYTES)
            begin = min(begin, self._at)
            stop = min(self._size, max(end, begin + AHEAD_BYTES))
            self._ahead_at, self._ahead = begin, self._wait(self._get(begin, stop))
            inside = self._at - begin
        found = self._ahead[inside : inside + end - self._at]
        self._at += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    async def _get(self, begin: int, stop: int) -> bytes:
        pieces: list[bytes] = []
        async with self._reader.open(begin, stop) as body:
            while piece := await body.read():
                pieces.append(piece)
        return b"".join(pieces)
