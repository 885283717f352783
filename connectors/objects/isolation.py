"""Read documents in worker processes with limits of time and memory.

A Word or PDF file of a few kilobytes can make its library use gigabytes, block the interpreter for minutes or
abort the process. So documents are opened in other processes: one that exceeds a limit is killed, and its
document becomes a dead letter.

The processes are started on demand, are reused, and serve all readers of an event loop. `anyio.to_process`
and `multiprocessing` would run the user's main module in them, which for a script without a guard would run
the whole pipeline again.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import anyio
from anyio.lowlevel import RunVar

from connectors.objects.documents import DocumentPart, ImagePart, TextPart, needs_opening, parts
from connectors.objects.pages import ObjectReader
from connectors.objects.reader_process import pack
from connectors.objects.reader_worker import SIGXCPU, CrashedError, Worker
from engine.errors import FatalError, RecordError, StoppingError

MAX_PROCESSES = 2
POLL = 0.5
"""Seconds between checks of the time limit and for a stop, while a document is opened."""

WALL_FACTOR = 6.0
"""Wall-clock seconds allowed per second of processor time, for a busy machine."""


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """Limits for reading one document.

    Args:
        seconds: processor time.
        memory: address space of the process in bytes, of which about 100 MiB are used at the start.
        stop_grace: seconds that open documents may take after the run is asked to stop.
    """

    seconds: float = 10.0
    memory: int = 1024 * 1024 * 1024
    stop_grace: float = 5.0


class DocumentReader:
    """Reads documents; an async context manager whose processes end with the last reader.

    Args:
        stopping: returns true once the run should end. A document that is not read soon after is abandoned.
    """

    def __init__(
        self, limits: ReaderLimits | None = None, *, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._limits = limits or ReaderLimits()
        self._stopping = stopping
        self._stop_by: float | None = None
        self._pool: _Pool | None = None

    async def __aenter__(self) -> Self:
        try:
            pool = _POOL.get()
        except LookupError:
            pool = _Pool()
            _POOL.set(pool)
        pool.users += 1
        self._pool = pool
        return self

    async def __aexit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.users -= 1
            if pool.users == 0:
                await pool.close()

    async def parts(self, content: str, name: str) -> list[DocumentPart]:
        """Return the parts of a document; see `connectors.objects.documents.parts`.

        Raises:
            TransientError, FatalError: no process can be started now, or at all.
            RecordError: also of kind `DocumentTooSlow` or `DocumentTooLarge` if it exceeds a limit, and
                `CorruptDocument` if the process crashed.
            StoppingError: the run is stopping, and the document takes too long.
        """
        if not needs_opening(content, name):
            return parts(content, name)
        if self._pool is None:
            raise RuntimeError("the document reader is used outside of `async with`")
        data = content.encode("utf-8", "surrogatepass")
        async with self._pool.limiter:
            while True:
                worker = self._pool.idle.pop() if self._pool.idle else await Worker.start()
                fresh = not worker.used
                try:
                    answer = await self._ask(worker, data, name)
                except CrashedError as crash:
                    # a reused worker may have died from the effects of earlier documents
                    if not fresh and crash.kind == "CorruptDocument":
                        continue
                    raise RecordError(_crash(name, crash.status, self._limits), kind=crash.kind) from None
                if answer.get("last", True):
                    await worker.end()
                else:
                    self._pool.idle.append(worker)
                if answer.get("spent") and not fresh:
                    continue
                _check(answer)
                return [
                    TextPart(value) if kind == "text" else ImagePart(value) for kind, value in answer["parts"]
                ]

    async def rows(
        self, reader: ObjectReader, size: int, wanted: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield what `connectors.objects.sheets.sheet_rows` does for a workbook of this size.

        Its process does not count towards `MAX_PROCESSES`: the consumer of the rows may wait for documents.

        Raises:
            ComponentError: as for `parts`, and for the object's `open`.
        """
        if self._pool is None:
            raise RuntimeError("the document reader is used outside of `async with`")
        while True:
            worker = self._pool.idle.pop() if self._pool.idle else await Worker.start()
            # a reused worker may fail from the effects of earlier documents
            retry, worker.used = worker.used, True
            answer: Mapping[str, Any] = {}
            try:
                await self._send(worker, reader, size, wanted)
                while "rows" in (answer := await self._answer(worker, reader.path)):
                    retry = False
                    yield answer
                if not (retry and answer.get("spent")):
                    _check(answer)
                    return
            except CrashedError as crash:
                if not retry or crash.kind != "CorruptDocument":
                    raise RecordError(
                        _crash(reader.path, crash.status, self._limits), kind=crash.kind
                    ) from None
            finally:
                if answer.get("last", True):
                    await worker.end()
                else:
                    self._pool.idle.append(worker)

    async def _send(self, worker: Worker, reader: ObjectReader, size: int, wanted: Mapping[str, Any]) -> None:
        await worker.send(pack(self._request(reader.path, size) | {"wanted": wanted}))
        left = size
        async with reader.open(0, None) as body:
            while (piece := await body.read()) and left >= 0:
                left -= len(piece)
                await worker.send(piece)
        if left:
            raise RecordError(
                f"{reader.path} does not have the {size:,} bytes it was listed with",
                kind="ObjectUnreadable",
            )

    def _request(self, name: str, size: int) -> dict[str, Any]:
        limits = self._limits
        return {"name": name, "size": size, "seconds": limits.seconds, "memory": limits.memory}

    async def _ask(self, worker: Worker, data: bytes, name: str) -> Mapping[str, Any]:
        """Return a worker's answer for a document; kill a worker that is too slow or no longer needed."""
        worker.used = True
        try:
            self._check_stop(name)
            async with anyio.create_task_group() as group:
                group.start_soon(worker.send, pack(self._request(name, len(data))), data)
                answer = await self._answer(worker, name)
                group.cancel_scope.cancel()
            return answer
        except BaseException as error:
            await worker.end()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def _answer(self, worker: Worker, name: str) -> Mapping[str, Any]:
        until = anyio.current_time() + WALL_FACTOR * self._limits.seconds
        while True:
            answer = await worker.receive(POLL)
            if answer is not None:
                return answer
            self._check_stop(name)
            if anyio.current_time() >= until:
                raise CrashedError(None)

    def _check_stop(self, name: str) -> None:
        if not self._stopping():
            return
        now = anyio.current_time()
        self._stop_by = self._stop_by if self._stop_by is not None else now + self._limits.stop_grace
        if now >= self._stop_by:
            raise StoppingError(f"{name}: the run was told to stop while the document was opened")


class _Pool:
    """The idle workers of an event loop, and the number of its readers."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []
        self.users = 0
        self.limiter = anyio.CapacityLimiter(MAX_PROCESSES)

    async def close(self) -> None:
        idle, self.idle = self.idle, []
        for worker in idle:
            await worker.end()


_POOL: RunVar[_Pool] = RunVar("odw_document_readers")


def _check(answer: Mapping[str, Any]) -> None:
    """Raise the error of an answer."""
    if "missing" in answer:
        raise FatalError(
            f"documents cannot be opened: {answer['missing']}; install what reads them: "
            "pip install 'odw-engine[s3,documents]'"
        )
    if "kind" in answer:
        raise RecordError(answer["message"], kind=answer["kind"])


def _crash(name: str, status: int | None, limits: ReaderLimits) -> str:
    if status is None or status == -SIGXCPU:
        return f"{name}: opening it takes more than {limits.seconds:g} s of processor time"
    try:
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    except ValueError:
        how = f"signal {-status}"
    return (
        f"{name}: the process that opened it crashed ({how}): the file is broken, or opening it takes more"
        f" than {limits.memory // 2**20:,} MiB of memory"
    )
