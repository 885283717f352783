"""The parent's side of a worker process that opens documents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

from connectors.objects.reader_process import LENGTH_BYTES
from engine.errors import FatalError, TransientError

START_SECONDS = 60.0

SIGXCPU = int(getattr(signal, "SIGXCPU", 24))

_PASSED_ON = frozenset(
    {
        "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "SYSTEMROOT",
        "TMPDIR",
    }
)  # fmt: skip


class CrashedError(Exception):
    """A worker ended without an answer; `status` is its exit status, None if it was too slow."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status
        self.kind = "DocumentTooSlow" if status in (None, -SIGXCPU) else "CorruptDocument"


class Worker:
    """A worker process. Attribute `used`: it has received a document."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._received = bytearray()
        self.used = False

    @classmethod
    async def start(cls) -> Worker:
        """Start a process and wait until it is ready.

        Raises:
            TransientError: the machine cannot start another process now.
            FatalError: the program does not run on this machine.
        """
        # -P: modules in the current folder must not shadow ours
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
        except CrashedError as crash:
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
            return  # it has ended: `receive` reports how

    async def receive(self, within: float) -> dict[str, Any] | None:
        """Return the next answer, or None if it has not arrived within this many seconds.

        Raises:
            CrashedError: the process ended without an answer.
        """
        received = self._received
        with anyio.move_on_after(within):
            while len(received) < LENGTH_BYTES or len(received) < LENGTH_BYTES + _length(received):
                try:
                    received += await self._stdout.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    raise CrashedError(await self._process.wait()) from None
            end = LENGTH_BYTES + _length(received)
            answer: dict[str, Any] = json.loads(received[LENGTH_BYTES:end])
            del received[:end]
            return answer
        return None

    async def end(self) -> None:
        """Kill the process."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.aclose()


def _length(received: bytearray) -> int:
    return int.from_bytes(received[:LENGTH_BYTES])


def _environment() -> dict[str, str]:
    """Return what Python needs to start and find these modules, without secrets: files may be hostile."""
    known = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, known.get("PYTHONPATH", "")]
    return {**known, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
