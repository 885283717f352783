"""The base of sinks that write files of records."""

from __future__ import annotations

import codecs
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import ClassVar, Literal, Self, TypeVar

import anyio
import anyio.to_thread
from pydantic import BaseModel, ByteSize, Field, model_validator

from connectors.objects.csv_types import ColumnType
from connectors.objects.encoding import Compression, Failures, FileFormat, compress, encode_csv, encode_jsonl
from connectors.objects.part_files import PartFiles, PartStore, file_name, is_part, run_token
from connectors.objects.partitions import any_partition, is_below, split_by
from engine.contract.batch import Batch
from engine.contract.claims import Claim
from engine.contract.component import BatchLimits, Params, Sink, operational
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, ComponentError, FatalError

SHOWN_FILES = 3


class PartParams(Params):
    """How to write records to files."""

    format: FileFormat = Field(
        default="jsonl", description="Format of the files: `jsonl`, `csv` or `parquet`"
    )
    compression: Compression | None = Field(
        default=None, description="`none`, `gzip` or `zstd` (default: none; Parquet: `zstd`)"
    )
    columns: list[str] = Field(
        default=[], description="CSV, Parquet: columns in this order; default: all fields, as they appear"
    )
    types: dict[str, ColumnType] = Field(
        default={}, description="Parquet: types of columns by name; others follow from the values"
    )
    partition_by: list[str] = Field(
        default=[],
        description="Columns whose values name a folder for each file (`country=DE/day=2026-01-01/`), and "
        "which the files leave out",
    )
    max_partitions: int = operational(
        1000, ge=1, description="Stop the run if a batch has more partitions, each of which gets a file"
    )
    header: bool = Field(default=True, description="CSV: each file begins with the names of its columns")
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="CSV: delimiter")
    bom: bool = Field(
        default=False,
        description="CSV: each file begins with a byte order mark, by which Excel recognizes UTF-8",
    )
    mode: Literal["append", "replace", "error"] = operational(
        "append",
        description="What a new run does if files exist: add to them, replace those of earlier runs "
        "when it completes, or fail",
    )
    rotate_bytes: ByteSize = operational(
        ByteSize(32 * 1024 * 1024),
        gt=0,
        description="Start a new file after this many bytes of records in memory",
    )
    rotate_records: int = operational(1_000_000, ge=1, description="Start a new file after this many records")
    rotate_seconds: float = operational(60.0, gt=0, description="Write a file after this many seconds")

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        given = self.model_fields_set
        for name, formats in (
            ("columns", ("csv", "parquet")), ("types", ("parquet",)),
            ("header", ("csv",)), ("delimiter", ("csv",)), ("bom", ("csv",)),
        ):  # fmt: skip
            if name in given and self.format not in formats:
                raise ValueError(f"`{name}` is not for `format: {self.format}`")
        if self.delimiter in '"\r\n':
            raise ValueError("`delimiter` cannot be a quote or a line end")
        for name in ("columns", "partition_by"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"`{name}` names one twice")
        return self

    @model_validator(mode="after")
    def _fits_partitions(self) -> Self:
        if "max_partitions" in self.model_fields_set and not self.partition_by:
            raise ValueError("`max_partitions` is for `partition_by`")
        if hidden := [name for name in self.partition_by if not name or name.startswith(".")]:
            raise ValueError(
                f"`partition_by` names {hidden[0]!r}: a column needs a name, without a dot at its beginning, "
                "which would hide its folders"
            )
        if typed := [name for name in self.partition_by if name in self.types]:
            raise ValueError(f"`types` names {typed[0]!r}, which `partition_by` leaves out of the files")
        if self.columns and not self.file_columns:
            raise ValueError("`partition_by` names all `columns`: no column would be left in the files")
        return self

    @property
    def file_columns(self) -> list[str]:
        """The columns of the files; empty for all fields."""
        return [name for name in self.columns if name not in self.partition_by]

    @property
    def suffix(self) -> str:
        """Return the suffix of the file names."""
        packed = {"gzip": ".gz", "zstd": ".zst"}.get(self.compression or "", "")
        return f".{self.format}" + (packed if self.format != "parquet" else "")


def needs_whole_run(params: PartParams) -> bool:
    """Return whether a run cannot be divided: chunks would replace or reject each other's files."""
    return params.mode != "append"


def parts_claim(place: str, shown: str, params: PartParams) -> Claim:
    """Return the claim of a sink that writes files to a folder or below a prefix."""
    replaces = params.mode == "replace"
    alone = "`mode: replace` deletes the files of the other" if replaces else ""
    remedy = "choose another place for one of them, outside of the other's"
    folder = "".join(map(any_partition, params.partition_by))
    adds = f"{place.rstrip('/')}/{folder}{file_name('0' * 12, 0, '0' * 8, params.suffix)}"
    deletes = partial(_deletes, place) if replaces else None
    return Claim(place, f"writes {shown}", alone, remedy, adds=adds, deletes=deletes)


def _deletes(folder: str, place: str) -> bool:
    return is_part(place) and is_below(place, folder)


P = TypeVar("P", bound=PartParams)


class PartSink(Sink[P]):
    """A sink whose batches become files. A subclass opens the store.

    Class attributes:
        partitions_at_once: number of partitions of a batch to write concurrently.
    """

    partitions_at_once: ClassVar[int] = 1

    def __init__(self, params: P, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._files: PartFiles | None = None

    @property
    @abstractmethod
    def named(self) -> str:
        """The place of the files, for messages."""

    @abstractmethod
    async def open_store(self, stack: AsyncExitStack) -> PartStore:
        """Open the store of the files; `stack` closes it."""

    @property
    def limits(self) -> BatchLimits:
        """One batch becomes one file."""
        params = self.params
        return BatchLimits(params.rotate_records, int(params.rotate_bytes), params.rotate_seconds)

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the store and look for existing files."""
        if self.params.format == "parquet":
            from connectors.objects.parquet_format import load_pyarrow

            await load_pyarrow()
        ctx, suffix = self.ctx, self.params.suffix
        files = PartFiles(await self.open_store(stack), run_token(ctx), suffix, ctx.lease)
        others = await files.open()
        if self.params.mode == "error" and others and not files.begun:
            shown = ", ".join(sorted(others)[:SHOWN_FILES])
            raise FatalError(
                f"{self.named} has {len(others):,} files ({shown} …), which `mode: error` rejects: choose "
                "another place, `mode: append` or `mode: replace`"
            )
        self._files = files
        stack.callback(setattr, self, "_files", None)

    def _open(self) -> PartFiles:
        assert self._files is not None, "enter the sink first"
        return self._files

    async def write(self, batch: Batch) -> None:
        """Write the batch as a file for each partition, without records that an earlier attempt has written.

        Raises:
            BatchError: some records cannot be expressed in the format; the others were written.
            TransientError, FatalError: nothing can be written now, or at all.
        """
        files, places = self._open(), range(len(batch))
        left: Sequence[int] = places
        if files.before and self.ctx.distinct_keys:
            left = await anyio.to_thread.run_sync(files.unwritten, batch)
        failures = await (self._write_parts if self.params.partition_by else self._write)(batch, left)
        if failures:
            raise BatchError(failures)

    async def _write_parts(self, batch: Batch, places: Sequence[int]) -> Failures:
        """Write the records at these indices to the folders of their partitions; else as `_write`."""
        params = self.params
        parts, failures, lacking = await anyio.to_thread.run_sync(
            split_by, batch, places, params.partition_by, params.max_partitions
        )
        for column, number in lacking.items():
            self.ctx.count(f"absent: {column}", number)
        left, errors = iter(parts), list[ComponentError]()

        async def write() -> None:
            for partition, part in left:
                try:
                    failed = await self._write(part, range(len(part)), partition.folder)
                except ComponentError as error:
                    errors.append(error)
                if errors:  # also of another task
                    return
                failures.update({partition.places[index]: error for index, error in failed.items()})

        if self.partitions_at_once == 1:
            await write()
        else:
            async with anyio.create_task_group() as group:
                for _ in range(min(self.partitions_at_once, len(parts))):
                    group.start_soon(write)
        if errors:
            raise errors[0]
        return failures

    async def _write(self, batch: Batch, places: Sequence[int], folder: str = "") -> Failures:
        """Write the records at these indices; return the errors of unwritable ones, by index."""
        if not places:
            return {}
        part = batch if len(places) == len(batch) else batch.take(places)
        data, failed = await anyio.to_thread.run_sync(self._encode, part)
        failures = {places[index]: error for index, error in failed.items()}
        good = [place for place in places if place not in failures]
        if not good:
            return failures
        if len(data) > self.params.rotate_bytes and len(good) > 1:
            middle = len(good) // 2
            await self._write(batch, good[:middle], folder)
            await self._write(batch, good[middle:], folder)
            return failures
        await self._open().write(part if len(good) == len(part) else batch.take(good), data, folder)
        return failures

    def _encode(self, batch: Batch) -> tuple[bytes, Failures]:
        params = self.params
        if params.format == "parquet":
            from connectors.objects.parquet_encoding import encode_parquet

            packing = params.compression or "zstd"
            return encode_parquet(batch.records, params.file_columns, params.types, packing)
        if params.format == "csv":
            data, failures = encode_csv(
                batch.records, params.file_columns, params.delimiter, header=params.header
            )
            data = codecs.BOM_UTF8 + data if params.bom else data
        else:
            data, failures = encode_jsonl(batch.records)
        return compress(data, params.compression or "none"), failures

    async def run_completed(self) -> None:
        """Remove the run's notes, and with `mode: replace` the files of earlier runs."""
        files = self._open()
        # a run that is killed after this resumes without notes: other files may be from later runs
        await files.close_run(
            replace=self.params.mode == "replace" and (files.begun or self.ctx.attempt == 1)
        )

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Count the records in the files of this run that still match their notes."""
        if self.ctx.chunk or not self.ctx.distinct_keys:
            return [Check("records", delivered.records, note="only a run in one process can count its files")]
        return [delivered.check(f"records in {self.named}", await self._open().count())]
