"""Documents opened in worker processes, with limits of time and memory.

A Word or PDF file of a few kilobytes can make its library take gigabytes, hold the interpreter for minutes
or abort the process. So they are opened elsewhere: a process that exceeds a limit or crashes is killed, and
the document becomes a dead letter.

The processes are started when the first document asks for one, are used again, and serve all readers of an
event loop. `anyio.to_process` and `multiprocessing` would run the user's main module in them, which for a
script without a guard is the whole pipeline once more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import Process
from anyio.lowlevel import RunVar

from connectors.objects.documents import DocumentPart, ImagePart, TextPart, needs_opening, parts
from connectors.objects.reader_process import LENGTH_BYTES, pack
from engine.errors import FatalError, RecordError, StoppingError, TransientError

__all__ = ["DocumentReader", "ReaderLimits"]

MAX_PROCESSES = 2
START_SECONDS = 60.0
POLL = 0.5
"""Seconds between two looks at the clock and at whether the run is stopping, while a document is opened."""

WALL_FACTOR = 6.0
"""Seconds of the clock for each of processor time, on a machine with much else to do."""

_PASSED_ON = frozenset(
    {
        "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "SYSTEMROOT",
        "TMPDIR",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What opening one document may take.

    Args:
        seconds: of processor time.
        memory: bytes of address space of the process, some 100 MiB of which it has to begin with.
        stop_grace: seconds that documents which are open may take after the run is told to stop.
    """

    seconds: float = 10.0
    memory: int = 1024 * 1024 * 1024
    stop_grace: float = 2.0


class DocumentReader:
    """Opens documents. An async context manager; the processes end with the last reader.

    Args:
        stopping: true once the run should end. A document that is not read soon after is left undone.
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.users -= 1
            if pool.users == 0:
                await pool.close()

    async def parts(self, content: str, name: str) -> list[DocumentPart]:
        """The parts of a document, as `connectors.objects.documents.parts` makes them.

        Raises:
            TransientError, FatalError: no process can be started, or not here.
            RecordError: also of kind `DocumentTooSlow` or `DocumentTooLarge` when it exceeds a limit, and
                `CorruptDocument` when the process crashed over it.
            StoppingError: the run is stopping, and the document takes too long.
        """
        if not needs_opening(content):
            return parts(content, name)
        if self._pool is None:
            raise RuntimeError("the document reader is used outside of `async with`")
        data = content.encode("utf-8", "surrogatepass")
        async with self._pool.limiter:
            while True:
                worker = self._pool.idle.pop() if self._pool.idle else await _Worker.start()
                fresh = not worker.used
                try:
                    answer = await self._ask(worker, data, name)
                except _CrashedError as crash:
                    # a worker that has opened others may have died of what they left behind
                    if not fresh and crash.kind == "CorruptDocument":
                        continue
                    raise RecordError(_crash(name, crash.status, self._limits), kind=crash.kind) from None
                if answer.get("last", True):
                    await worker.end()
                else:
                    self._pool.idle.append(worker)
                if answer.get("kind") == "DocumentTooLarge" and not fresh:
                    continue
                if "missing" in answer:
                    raise FatalError(f"documents cannot be opened: {answer['missing']}")
                return _parts(answer)

    async def _ask(self, worker: _Worker, data: bytes, name: str) -> Mapping[str, Any]:
        """What a worker makes of a document; one that is too slow, or not needed any more, is killed."""
        limits = self._limits
        request = {"name": name, "size": len(data), "seconds": limits.seconds, "memory": limits.memory}
        worker.used = True
        try:
            self._check_stop(name)
            async with anyio.create_task_group() as group:
                group.start_soon(worker.send, pack(request), data)
                answer = await self._answer(worker, name)
                group.cancel_scope.cancel()
            return answer
        except BaseException as error:
            await worker.end()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def _answer(self, worker: _Worker, name: str) -> Mapping[str, Any]:
        until = anyio.current_time() + WALL_FACTOR * self._limits.seconds
        while True:
            answer = await worker.receive(POLL)
            if answer is not None:
                return answer
            self._check_stop(name)
            if anyio.current_time() >= until:
                raise _CrashedError(None)

    def _check_stop(self, name: str) -> None:
        if not self._stopping():
            return
        now = anyio.current_time()
        self._stop_by = self._stop_by if self._stop_by is not None else now + self._limits.stop_grace
        if now >= self._stop_by:
            raise StoppingError(f"{name}: the run was told to stop while the document was opened")


class _CrashedError(Exception):
    """A worker ended without an answer; `status` as of a subprocess, None when it was too slow."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status
        self.kind = "DocumentTooSlow" if status in (None, -_SIGXCPU) else "CorruptDocument"


class _Pool:
    """The workers of an event loop that have nothing to do, and how many readers may ask for them."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.users = 0
        self.limiter = anyio.CapacityLimiter(MAX_PROCESSES)

    async def close(self) -> None:
        idle, self.idle = self.idle, []
        for worker in idle:
            await worker.end()


class _Worker:
    """A worker process. Attribute `used`: it has been given a document."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._received = bytearray()
        self.used = False

    @classmethod
    async def start(cls) -> _Worker:
        """A process that is ready.

        Raises:
            TransientError: the machine has no room for another process.
            FatalError: the program does not run here.
        """
        # -P: no module of the current folder is taken for one of ours
        command = [sys.executable, "-P", "-m", "connectors.objects.reader_process"]
        try:
            process = await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        except OSError as error:
            raise TransientError(f"no process can be started to open documents: {error}") from error
        worker = cls(process)
        try:
            ready = await worker.receive(START_SECONDS)
        except _CrashedError as crash:
            await worker.end()
            raise FatalError(
                f"documents cannot be opened: `{' '.join(command)}` ends with exit code {crash.status};"
                " run it to see why"
            ) from None
        except BaseException:
            await worker.end()
            raise
        if ready is None:
            await worker.end()
            raise TransientError(f"a process to open documents was not ready within {START_SECONDS:g} s")
        return worker

    async def send(self, *pieces: bytes) -> None:
        try:
            for piece in pieces:
                await self._stdin.send(piece)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # it has ended: `receive` says how

    async def receive(self, within: float) -> dict[str, Any] | None:
        """The answer, or None when it has not come within so many seconds.

        Raises:
            _CrashedError: the process has ended without one.
        """
        received = self._received
        with anyio.move_on_after(within):
            while len(received) < LENGTH_BYTES or len(received) < LENGTH_BYTES + _length(received):
                try:
                    received += await self._stdout.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    raise _CrashedError(await self._process.wait()) from None
            answer: dict[str, Any] = json.loads(received[LENGTH_BYTES:])
            received.clear()
            return answer
        return None

    async def end(self) -> None:
        """Kill the process, whatever it does."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.aclose()


_POOL: RunVar[_Pool] = RunVar("odw_document_readers")
_SIGXCPU = int(getattr(signal, "SIGXCPU", 24))


def _length(received: bytearray) -> int:
    return int.from_bytes(received[:LENGTH_BYTES])


def _parts(answer: Mapping[str, Any]) -> list[DocumentPart]:
    if "kind" in answer:
        raise RecordError(answer["message"], kind=answer["kind"])
    return [TextPart(value) if kind == "text" else ImagePart(value) for kind, value in answer["parts"]]


def _crash(name: str, status: int | None, limits: ReaderLimits) -> str:
    if status is None or status == -_SIGXCPU:
        return f"{name}: opening it takes more than {limits.seconds:g} s of processor time"
    try:
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    except ValueError:
        how = f"signal {-status}"
    return (
        f"{name}: the process that opened it crashed ({how}): the file is broken, or opening it takes more"
        f" than {limits.memory // 2**20:,} MiB of memory"
    )


def _environment() -> dict[str, str]:
    """Enough to start Python and to find these modules; no secrets, for hostile files are opened there."""
    known = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, known.get("PYTHONPATH", "")]
    return {**known, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
