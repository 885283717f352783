"""A child process that reports readiness with its first line of output and ends when its input is closed.

Threads, not tasks, read its pipes, so that it can be started in one task and stopped in another.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, cast

_TAIL_BYTES = 8 * 1024
_MAX_LINE_LENGTH = 64 * 1024
GRACE_SECONDS = 15.0  # the ingest service may be writing its last batches
_TERM_SECONDS = 2.0


class ChildProcess:
    """A started child.

    `ready` receives its first line of output, or `EOFError` if it ends without one. A second line announces
    that it keeps running after its input is closed.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.ready: Future[bytes] = Future()
        self._left: Future[bool] = Future()
        self._tail = bytearray()
        # A separate session shields it from the terminal's Ctrl-C: the parent needs it while draining.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(env),
            start_new_session=True,
        )
        pipes = self._process.stdin, self._process.stdout, self._process.stderr
        self._stdin, self._stdout, self._stderr = cast("tuple[IO[bytes], IO[bytes], IO[bytes]]", pipes)
        self._readers = (
            threading.Thread(target=self._read_output, name="sandbox-stdout", daemon=True),
            threading.Thread(target=self._read_errors, name="sandbox-stderr", daemon=True),
        )
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def error_tail(self) -> str:
        """Return the end of its standard error, at most 8 KiB."""
        return bytes(self._tail).decode("utf-8", "replace").strip()

    def stop(self, grace: float = GRACE_SECONDS) -> int | None:
        """Close its input, wait up to `grace` seconds, then terminate, then kill; returns the exit code.

        Blocks; afterwards no process, pipe or thread is left. A child that announced that it stays for others
        is left running: None is returned at once, and a thread reaps it when it ends.
        """
        self._stdin.close()
        try:
            stays = self._left.result(grace)
        except TimeoutError:
            stays = False
            grace = 0.0
        if stays:
            threading.Thread(target=self._reap, name="sandbox-reaper", daemon=True).start()
            return None
        code = self._wait(grace)
        if code is None:
            self._process.terminate()
            code = self._wait(_TERM_SECONDS)
        if code is None:
            self._process.kill()
            code = self._process.wait()
        self._reap()
        return code

    def _reap(self) -> None:
        self._process.wait()
        for reader in self._readers:
            reader.join()
        self._stdout.close()
        self._stderr.close()

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _read_output(self) -> None:
        lines = bytearray()
        for chunk in _chunks(self._stdout):
            if self._left.done():
                continue  # keep reading, so that the child never blocks on a full pipe
            lines += chunk
            is_long = len(lines) > _MAX_LINE_LENGTH
            if not self.ready.done() and (b"\n" in lines or is_long):
                self.ready.set_result(bytes(lines.partition(b"\n")[0]))
            if lines.count(b"\n") > 1:
                self._left.set_result(True)
            elif is_long:
                del lines[_MAX_LINE_LENGTH:]
        if not self.ready.done():
            self.ready.set_exception(EOFError())
        if not self._left.done():
            self._left.set_result(False)

    def _read_errors(self) -> None:
        for chunk in _chunks(self._stderr):
            self._tail += chunk
            del self._tail[:-_TAIL_BYTES]


def environment() -> dict[str, str]:
    """Return this process's environment, extended so that a child imports the same `engine`."""
    root = str(Path(__file__).resolve().parents[2])
    if "site-packages" in root:
        return dict(os.environ)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _chunks(pipe: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: os.read(pipe.fileno(), 4096), b"")
