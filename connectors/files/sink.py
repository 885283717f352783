"""The sink `jsonl`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import anyio
import anyio.to_thread
import orjson
from pydantic import BaseModel, Field, field_validator

from connectors.json_lines import dump_records, write_out
from engine.contract.batch import Batch
from engine.contract.component import Kind, Locality, Params, Sink, component
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, FatalError

__all__ = ["JsonlSink", "JsonlSinkParams"]

STDOUT = "-"
TAIL_BYTES = 1024 * 1024

_OF_THIS_ATTEMPT = "those of this attempt only: lines do not name their run"


class JsonlSinkParams(Params):
    """Parameters of the `jsonl` sink."""

    path: str = Field(description="The file to append to, or `-` for the standard output")

    @field_validator("path")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value.endswith(".gz"):
            raise ValueError("the sink does not compress: choose a name without .gz")
        return value


def _reach(params: JsonlSinkParams) -> Locality:
    return Locality.PROCESS if params.path == STDOUT else Locality.MACHINE


@component(Kind.SINK, "jsonl", params=JsonlSinkParams, locality=_reach)
class JsonlSink(Sink[JsonlSinkParams]):
    """Append records to a file as JSON lines.

    The file and its folder are made if they are not there; what is in it stays. A batch is added whole or
    not at all, and half a line that a killed process left at the end is removed first. Lines are handed to
    the operating system with every batch and forced to the disk when the run ends.

    A file knows no keys: a run that is resumed after it was killed may add its last records again.
    """

    inline = True

    def __init__(self, params: JsonlSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._out: BinaryIO | None = None
        self._descriptor = -1
        self._regular = False
        self._began_at = 0
        self._added = 0

    async def __aenter__(self) -> Self:
        if self.params.path == STDOUT:
            # the one that stands there now: a program may have put another in its place
            self._out = sys.stdout.buffer
            return self
        try:
            self._descriptor = await anyio.to_thread.run_sync(_open, self.params.path)
        except OSError as error:
            raise FatalError(f"cannot write {self.params.path}: {error.strerror}") from error
        status = os.fstat(self._descriptor)
        self._regular, self._began_at = stat.S_ISREG(status.st_mode), status.st_size
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            if self._regular:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(os.fsync, descriptor)
        except OSError as failure:
            raise FatalError(f"cannot write {self.params.path}: {failure.strerror}") from failure
        finally:
            os.close(descriptor)

    async def write(self, batch: Batch) -> None:
        """Append the batch.

        Raises:
            BatchError: records that JSON cannot say; the others were added.
            FatalError: the file cannot be written, for instance because the disk is full.
        """
        data, failures = dump_records(batch.records)
        if self._out is not None:
            write_out(self._out, data)
        elif data:
            self._append(data)
        if failures:
            raise BatchError(failures)

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Count the lines that this attempt has added. Lines do not say which run they are of."""
        if not self._regular:
            return [Check("lines", delivered.here, note=f"cannot read `{self.params.path}` back")]
        size = os.fstat(self._descriptor).st_size
        if not _is_at(self._descriptor, self.params.path):
            return [Check("lines", delivered.here, 0, "the file was removed or replaced meanwhile")]
        if size > self._began_at + self._added:
            note = f"another process wrote to {self.params.path} meanwhile"
            return [Check("lines", delivered.here, note=note)]
        found = await anyio.to_thread.run_sync(_count_lines, self._descriptor, self._began_at, size)
        note = "" if delivered.here == delivered.records else _OF_THIS_ATTEMPT
        return [Check("lines", delivered.here, found, note)]

    def _append(self, data: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            if self._regular:
                # no half batch: it comes again in a resumed run
                with suppress(OSError):
                    os.ftruncate(self._descriptor, before)
            raise FatalError(f"cannot write {self.params.path}: {error.strerror}") from error
        self._added += len(data)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _count_lines(descriptor: int, start: int, end: int) -> int:
    lines = 0
    while start < end and (block := os.pread(descriptor, min(TAIL_BYTES, end - start), start)):
        lines += block.count(b"\n")
        start += len(block)
    return lines


def _open(path: str) -> int:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            _mend_end(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mend_end(descriptor: int) -> None:
    """Make the file end with a line end: after a whole record add one, half a record is removed."""
    size = os.fstat(descriptor).st_size
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        step = min(TAIL_BYTES, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last.strip():
        return
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        os.ftruncate(descriptor, size - len(last))
    else:
        os.write(descriptor, b"\n")
