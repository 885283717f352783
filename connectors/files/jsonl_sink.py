"""The sink `jsonl`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Self

import anyio
import anyio.to_thread
import orjson
from pydantic import BaseModel, Field, field_validator

from connectors.addresses import without_fields
from connectors.files.errors import make_folder
from connectors.files.sharing import writes_file
from connectors.files.written import (
    WrittenLog,
    locked,
    log_path,
    mark_replaced,
    undo_cut_write,
    whole_write,
    write_all,
)
from connectors.json_lines import dump_records, write_out
from connectors.objects.compression import is_packed
from engine.contract.batch import Batch
from engine.contract.claims import Claim
from engine.contract.component import Kind, Locality, Params, Sink, component, operational
from engine.contract.keys import KeyList, Keys
from engine.contract.params import LocalPath
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, FatalError, LeaseLostError

STDOUT = "-"
TAIL_BYTES = 1024 * 1024

_OF_THIS_ATTEMPT = "those of this attempt only: lines do not name their run"


class JsonlSinkParams(Params):
    """Parameters of the `jsonl` sink."""

    path: LocalPath = Field(description="File to append to; `-` for standard output")
    mode: Literal["append", "replace", "error"] = operational(
        "append",
        description="What a new run does with a file that is not empty: append to it, replace it, or fail",
    )

    @field_validator("path")
    @classmethod
    def _plain(cls, value: str) -> str:
        if is_packed(value):
            raise ValueError("the sink does not compress: choose a name without .gz, .bz2, .xz or .zst")
        return without_fields(value)


def _reach(params: JsonlSinkParams) -> Locality:
    return Locality.PROCESS if params.path == STDOUT else Locality.MACHINE


def _claim(params: JsonlSinkParams) -> Claim | None:
    is_stream = params.path == STDOUT or params.path.startswith("/dev/")
    return None if is_stream else writes_file(params.path, params.mode)


def _needs_whole_run(params: JsonlSinkParams) -> bool:
    return params.mode != "append"  # chunks would replace or reject each other's lines


@component(
    Kind.SINK, "jsonl", params=JsonlSinkParams, locality=_reach, whole_run=_needs_whole_run, claim=_claim
)
class JsonlSink(Sink[JsonlSinkParams]):
    """Append records to a file as JSON lines.

    The file and its folder are created if they do not exist. A new run appends to the file, replaces its
    content with the first batch (`mode: replace`), or refuses to start if it is not empty (`mode: error`). A
    batch is added whole or not at all, and half a line that a killed process left at the end is removed
    first. Lines are handed to the operating system with every batch and synced to disk when the run ends.

    A resumed run writes no line twice: the keys of written records are kept in a file next to it until the
    run completes. If a key may occur twice in a run (a source's `key:`), keys do not suffice, and the last
    lines may be added again.
    """

    inline = True

    def __init__(self, params: JsonlSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._path = os.path.expanduser(params.path)
        self._out: BinaryIO | None = None
        self._descriptor = -1
        self._regular = False
        self._began_at = 0
        self._added = 0
        self._end = 0  # of the file, when this sink last wrote to it
        self._known = 0  # records of this attempt that an earlier one wrote
        self._log: WrittenLog | None = None
        self._replaces = False

    async def __aenter__(self) -> Self:
        if self.params.path == STDOUT:
            # looked up now: a program may have replaced it
            self._out = sys.stdout.buffer
            return self
        try:
            await anyio.to_thread.run_sync(self._open)
        except OSError as error:
            self._close()
            raise FatalError(f"cannot write {self.params.path}: {error.strerror}") from error
        except FatalError:
            self._close()
            raise
        return self

    def _open(self) -> None:
        self._descriptor, self._path = _open(self._path), os.path.abspath(self._path)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if self._regular:
            with locked(self._descriptor):
                self._open_locked()
        # the same object may serve all attempts of a run
        self._began_at, self._added, self._known = self._end, 0, 0

    def _open_locked(self) -> None:
        params, path = self.params, log_path(self._path, self.ctx)
        undo_cut_write(self._path, self._descriptor)
        if path is not None:
            self._log = WrittenLog(path, self._descriptor, keyed=self.ctx.distinct_keys)
            self._log.open()
            if self._log.replaced:
                raise FatalError(
                    f"another run has replaced {params.path} since this one was interrupted: start a new run"
                )
        begun = self._log is not None and self._log.exists
        self._replaces = params.mode == "replace" and not begun
        if params.mode == "error" and not begun and os.fstat(self._descriptor).st_size:
            raise FatalError(
                f"{params.path} is not empty, which `mode: error` rejects: move the file away, or choose "
                "`mode: append` or `mode: replace`"
            )
        self._end = _mend_end(self._descriptor)

    async def __aexit__(self, *_: object) -> None:
        if self._descriptor < 0:
            return
        try:
            if self._regular:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(os.fsync, self._descriptor)
        except OSError as failure:
            raise FatalError(f"cannot write {self.params.path}: {failure.strerror}") from failure
        finally:
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self._log is not None:
            self._log.close()

    async def write(self, batch: Batch) -> None:
        """Add the batch, except for records that an earlier attempt of the run has added.

        Raises:
            BatchError: some records cannot be written as JSON; the others were added.
            FatalError: the file cannot be written (for example, the disk is full) or was replaced.
        """
        places = self._log.unwritten(batch.keys) if self._log is not None else None
        if places is not None:
            self._known += len(batch) - len(places)
            batch = batch.take(places)
        data, failures = dump_records(batch.records)
        if self._out is not None:
            write_out(self._out, data)
        elif data:
            failed = failures and batch.take([at for at in range(len(batch)) if at not in failures])
            self._append(data, (failed or batch).keys)
        if failures:
            raise BatchError({places[at] if places else at: failures[at] for at in failures})

    async def run_completed(self) -> None:
        """Remove the list of written keys. A run without any record leaves an empty file.

        Raises:
            FatalError: the file was replaced, or lines of this run are lost.
        """
        if self._log is not None and self._log.is_replaced():
            raise FatalError(
                f"another run has replaced {self.params.path} while this one wrote to it: start a new run, "
                "and let only one write to it at a time"
            )
        self._check_place()
        # a run that is killed after this resumes without notes, and its lines are in the file
        if self._replaces and self.ctx.attempt == 1:
            self._append(b"", KeyList([]))
        if self._log is not None:
            if self._log.lost > 0:
                what = "1 record" if self._log.lost == 1 else f"{self._log.lost:,} records"
                self.ctx.count(
                    f"note: lacks {what} that an earlier attempt wrote to {self.params.path}: the file was "
                    "removed or changed meanwhile; start a new run to write all"
                )
            self._log.remove()

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Count the lines that this attempt has added: lines do not identify their run."""
        if not self._regular:
            return [Check("lines", delivered.here, note=f"cannot read `{self.params.path}` back")]
        size = _size_at(self._descriptor, self._path)
        if size is None:
            return [Check("lines", delivered.here, 0, "the file was removed or replaced meanwhile")]
        if size > self._began_at + self._added:
            note = f"another node or process wrote to {self.params.path} meanwhile"
            return [Check("lines", delivered.here, note=note)]
        found = await anyio.to_thread.run_sync(_count_lines, self._descriptor, self._began_at, size)
        note = "" if delivered.here == delivered.records else _OF_THIS_ATTEMPT
        return [Check("lines", delivered.here, found + self._known, note)]

    def _append(self, data: bytes, keys: Keys) -> None:
        try:
            if not self._regular:
                write_all(self._descriptor, data)
            else:
                with locked(self._descriptor):
                    self._append_to_file(data, keys)
        except OSError as error:
            raise FatalError(f"cannot write {self.params.path}: {error.strerror}") from error
        except LeaseLostError:
            self._check_place()  # the folder may have vanished with the notes
            raise
        self._added += len(data)
        self._check_place()

    def _append_to_file(self, data: bytes, keys: Keys) -> None:
        if self._log is not None:
            self._log.check_own()
        undo_cut_write(self._path, self._descriptor)
        if self._replaces:
            self._refuse_own_lines()
            mark_replaced(self._path, self._log.path if self._log is not None else None)
            os.ftruncate(self._descriptor, 0)
            self._replaces, self._began_at, self._end = False, 0, 0
        before = os.fstat(self._descriptor).st_size
        if before != self._end:  # another writer has added lines, and may have been killed
            before = _mend_end(self._descriptor)
        end = before + len(data)
        undo = self._log.note(keys, data, before) if self._log is not None and data else -1
        try:
            with whole_write(self._path, self._descriptor, before, end):
                write_all(self._descriptor, data)
        except OSError:
            if self._log is not None and undo >= 0:
                self._log.take_back(undo)
            raise
        self._end = end

    def _refuse_own_lines(self) -> None:
        """Refuse to replace lines that may be this run's own, written by a version that kept no notes."""
        ctx, file = self.ctx, os.fstat(self._descriptor)
        if ctx.distinct_keys or ctx.attempt == 1 or ctx.started_at is None or not file.st_size:
            return
        if file.st_mtime >= ctx.started_at.timestamp():
            raise FatalError(
                f"{self.params.path} was written to since this run began, and the sink cannot tell whether "
                "it was this one, so it does not replace it: start a new run"
            )

    def _check_place(self) -> None:
        """Check that the file was not removed or replaced: writes to a removed file succeed and are lost."""
        if not self._regular:
            return
        size = _size_at(self._descriptor, self._path)
        if size is None:
            raise FatalError(
                f"{self.params.path} was removed or replaced while the run wrote to it: put it back and "
                "resume the run, which does not write again what was in it, or start a new run"
            )
        if size < self._began_at + self._added:
            raise FatalError(
                f"{self.params.path} was cut off while the run wrote to it, and lines of it are lost: start "
                "a new run"
            )


def _size_at(descriptor: int, path: str) -> int | None:
    """Return the size of an open file, None if it is not at this path any more."""
    try:
        file = os.fstat(descriptor)
        return file.st_size if os.path.samestat(file, os.stat(path)) else None
    except OSError:
        return None


def _count_lines(descriptor: int, start: int, end: int) -> int:
    lines = 0
    while start < end and (block := os.pread(descriptor, min(TAIL_BYTES, end - start), start)):
        lines += block.count(b"\n")
        start += len(block)
    return lines


def _open(path: str) -> int:
    make_folder(Path(path).parent)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)


def _mend_end(descriptor: int) -> int:
    """Complete the last record's line, or remove half a record; return the size of the file."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        step = min(TAIL_BYTES, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last.strip():
        return size
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        os.ftruncate(descriptor, size - len(last))
        return size - len(last)
    return size + os.write(descriptor, b"\n")
